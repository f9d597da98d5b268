//! The own bundle as the bundle endpoint gives it out: of the views, so with a quorum or without.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use steeple_federation::{Document, Documents};
use steeple_spiffe_core::TrustDomain;
use steeple_spiffe_core::bundle::Bundle;

use crate::view::Views;

/// The bundle of the own trust domain, written out anew whenever it is another.
#[derive(Debug)]
pub(crate) struct OwnBundle {
    views: Views,
    trust_domain: TrustDomain,
    refresh_hint: Duration,
    last: ArcSwapOption<Written>,
}

#[derive(Debug)]
struct Written {
    bundle: Arc<Bundle>,
    document: Arc<Document>,
}

impl OwnBundle {
    pub(crate) fn new(views: Views, trust_domain: TrustDomain, refresh_hint: Duration) -> Self {
        Self { views, trust_domain, refresh_hint, last: ArcSwapOption::empty() }
    }
}

impl Documents for OwnBundle {
    fn current(&self) -> Option<Arc<Document>> {
        let (_journal, bundle) = self.views.trust(&self.trust_domain);
        let bundle = bundle?;
        let last = self.last.load();
        if let Some(last) = last.as_ref().filter(|last| Arc::ptr_eq(&last.bundle, &bundle)) {
            return Some(Arc::clone(&last.document));
        }
        let document = Arc::new(Document::of(&bundle, self.refresh_hint));
        self.last.store(Some(Arc::new(Written { bundle, document: Arc::clone(&document) })));
        Some(document)
    }
}
