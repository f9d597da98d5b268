//! Commands about bundles, both ways.

use crate::codec::model::{
    jwt_authorities_from_pb, jwt_authorities_to_pb, trust_domain_from_pb, x509_authorities_from_pb,
    x509_authorities_to_pb,
};
use crate::codec::{CodecError, bundle_from_pb, bundle_to_pb};
use crate::command::{
    AppendBundle, BundleDeletion, BundleFields, BundleWrite, DeleteBundles, WriteBundles,
};
use crate::pb;
use crate::pb::store::delete_bundles::Mode as DeletionMode;
use crate::pb::store::write_bundles::Mode as WriteMode;

pub(super) fn write_bundles_to_pb(write: &WriteBundles) -> pb::store::WriteBundles {
    let (mode, update) = match write.mode {
        BundleWrite::Create => (WriteMode::Create, None),
        BundleWrite::Set => (WriteMode::Set, None),
        BundleWrite::Update(fields) => (WriteMode::Update, Some(fields_to_pb(fields))),
    };
    pb::store::WriteBundles {
        mode: mode.into(),
        update,
        bundles: write.bundles.iter().map(bundle_to_pb).collect(),
    }
}

pub(super) fn write_bundles_from_pb(
    write: pb::store::WriteBundles,
) -> Result<WriteBundles, CodecError> {
    let mode = match write.mode() {
        WriteMode::Create => BundleWrite::Create,
        WriteMode::Set => BundleWrite::Set,
        WriteMode::Update => BundleWrite::Update(fields_from_pb(
            write.update.ok_or_else(|| CodecError::missing("fields of an update of bundles"))?,
        )),
        WriteMode::Unspecified => return Err(CodecError::new("bundle write", write.mode)),
    };
    let bundles = write.bundles.into_iter().map(bundle_from_pb).collect::<Result<_, _>>()?;
    Ok(WriteBundles { mode, bundles })
}

pub(super) fn delete_bundles_to_pb(delete: &DeleteBundles) -> pb::store::DeleteBundles {
    let mode = match delete.mode {
        BundleDeletion::Restrict => DeletionMode::Restrict,
        BundleDeletion::Delete => DeletionMode::Delete,
        BundleDeletion::Dissociate => DeletionMode::Dissociate,
    };
    pb::store::DeleteBundles {
        mode: mode.into(),
        trust_domains: delete.trust_domains.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn delete_bundles_from_pb(
    delete: &pb::store::DeleteBundles,
) -> Result<DeleteBundles, CodecError> {
    let mode = match delete.mode() {
        DeletionMode::Restrict => BundleDeletion::Restrict,
        DeletionMode::Delete => BundleDeletion::Delete,
        DeletionMode::Dissociate => BundleDeletion::Dissociate,
        DeletionMode::Unspecified => return Err(CodecError::new("bundle deletion", delete.mode)),
    };
    let names = delete.trust_domains.iter();
    let trust_domains = names.map(|name| trust_domain_from_pb(name)).collect::<Result<_, _>>()?;
    Ok(DeleteBundles { mode, trust_domains })
}

pub(super) fn append_to_pb(append: &AppendBundle) -> pb::store::AppendBundle {
    pb::store::AppendBundle {
        x509_authorities: x509_authorities_to_pb(&append.x509_authorities),
        jwt_authorities: jwt_authorities_to_pb(&append.jwt_authorities),
    }
}

pub(super) fn append_from_pb(append: pb::store::AppendBundle) -> AppendBundle {
    AppendBundle {
        x509_authorities: x509_authorities_from_pb(append.x509_authorities),
        jwt_authorities: jwt_authorities_from_pb(append.jwt_authorities),
    }
}

fn fields_to_pb(fields: BundleFields) -> pb::store::BundleFields {
    let BundleFields { x509_authorities, jwt_authorities, refresh_hint, sequence_number } = fields;
    pb::store::BundleFields { x509_authorities, jwt_authorities, refresh_hint, sequence_number }
}

fn fields_from_pb(fields: pb::store::BundleFields) -> BundleFields {
    let pb::store::BundleFields {
        x509_authorities,
        jwt_authorities,
        refresh_hint,
        sequence_number,
    } = fields;
    BundleFields { x509_authorities, jwt_authorities, refresh_hint, sequence_number }
}
