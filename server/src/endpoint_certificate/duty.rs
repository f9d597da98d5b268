//! What the leader does for the certificate, and how things stand with it.

use std::sync::Arc;

use steeple_federation::acme::{
    Acme, AcmeSettings, AcmeState as _, Orderer, Standing, StateError, standing,
};
use steeple_spiffe_core::{Clock, Timestamp};

use super::records::KeptRecords;

/// A certificate by ACME, as it is configured. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EndpointCertificate {
    /// What the operator wants.
    pub settings: AcmeSettings,
    /// The server of certificates.
    pub acme: Arc<dyn Acme>,
    /// The records, to be read.
    pub records: KeptRecords,
    /// Decides what is due.
    pub clock: Arc<dyn Clock>,
}

impl EndpointCertificate {
    /// Orders and renews while this replica leads; ends only by being dropped.
    pub async fn lead(&self, term: u64) {
        let records = KeptRecords { term: Some(term), ..self.records.clone() };
        let orderer = Orderer {
            settings: self.settings.clone(),
            acme: Arc::clone(&self.acme),
            random: Arc::clone(&records.random),
            state: Arc::new(records),
            clock: Arc::clone(&self.clock),
        };
        orderer.lead().await;
    }

    /// How things stand, as this replica knows.
    ///
    /// # Errors
    ///
    /// The records cannot be read here.
    pub fn standing(&self, now: Timestamp) -> Result<Standing, StateError> {
        Ok(standing(&self.records.load()?, &self.settings, now))
    }
}
