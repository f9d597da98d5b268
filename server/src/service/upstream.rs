//! What `cluster status` warns of about the files of an upstream authority.

use steeple_api::pb::cluster::v1 as rpc;

use super::context::Context;
use crate::upstream::Standing;

/// How the files of this member stand, looked at now; `None`: there are none here.
pub(crate) async fn standing(context: &Context) -> Option<Standing> {
    context.minter.upstream.as_ref()?.look().await
}

/// Files that cannot be used, and a certificate that is about to end.
pub(super) async fn warnings(context: &Context) -> Vec<rpc::Warning> {
    let standing = standing(context).await;
    let ca_ttl = context.minter.policy.ca_ttl;
    let trouble = standing.and_then(|standing| standing.trouble(ca_ttl, context.common_time()));
    let warning = |trouble: crate::upstream::Trouble| rpc::Warning {
        code: trouble.code().to_owned(),
        message: trouble.text(),
        fix: trouble.fix().to_owned(),
    };
    trouble.map(warning).into_iter().collect()
}
