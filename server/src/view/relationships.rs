//! Federation relationships in list order and by trust domain.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use steeple_raft_store::RowNumber;
use steeple_spiffe_core::{FederationRelationship, TrustDomain};

use super::rows;

/// All relationships.
#[derive(Debug, Default)]
pub(super) struct RelationshipIndex {
    by_row: BTreeMap<RowNumber, Arc<FederationRelationship>>,
    rows: HashMap<TrustDomain, RowNumber>,
}

impl RelationshipIndex {
    /// Takes in a relationship, new or changed.
    pub(super) fn write(&mut self, row: RowNumber, relationship: Arc<FederationRelationship>) {
        self.rows.insert(relationship.trust_domain.clone(), row);
        self.by_row.insert(row, relationship);
    }

    /// Forgets a relationship.
    pub(super) fn remove(&mut self, row: RowNumber, trust_domain: &TrustDomain) {
        self.rows.remove(trust_domain);
        self.by_row.remove(&row);
    }

    /// The relationship with a trust domain.
    pub(super) fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<FederationRelationship>> {
        self.by_row.get(self.rows.get(trust_domain)?)
    }

    /// Relationships after a row, in list order, at most `limit` (`None`: all).
    pub(super) fn page(
        &self,
        after: Option<RowNumber>,
        limit: Option<usize>,
    ) -> Vec<(RowNumber, Arc<FederationRelationship>)> {
        rows::page(&self.by_row, after, limit, |_| true)
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::{EndpointProfile, EndpointUrl};

    use super::*;

    fn relationship(name: &str, path: &str) -> Arc<FederationRelationship> {
        Arc::new(FederationRelationship {
            trust_domain: TrustDomain::parse(name).unwrap(),
            endpoint_url: EndpointUrl::parse(&format!("https://{name}/{path}")).unwrap(),
            profile: EndpointProfile::HttpsWeb,
        })
    }

    #[test]
    fn a_list_has_the_order_of_rows_and_goes_on_after_any_of_them() {
        let mut index = RelationshipIndex::default();
        for (row, name) in [(5, "z.test"), (9, "a.test"), (7, "m.test")] {
            index.write(RowNumber(row), relationship(name, "1"));
        }
        index.write(RowNumber(7), relationship("m.test", "2"));
        let page = |after: Option<u64>, limit| {
            let rows = index.page(after.map(RowNumber), limit);
            rows.iter().map(|(row, _)| row.0).collect::<Vec<_>>()
        };
        assert_eq!(page(None, None), [5, 7, 9]);
        assert_eq!(page(None, Some(2)), [5, 7]);
        assert_eq!(page(Some(7), Some(2)), [9]);
        assert_eq!(page(Some(6), None), [7, 9]);
        assert_eq!(page(Some(9), None), [] as [u64; 0]);

        let domain = TrustDomain::parse("m.test").unwrap();
        assert_eq!(index.get(&domain), Some(&relationship("m.test", "2")));
        index.remove(RowNumber(7), &domain);
        assert_eq!(index.get(&domain), None);
        assert_eq!(index.page(None, None).len(), 2);
    }
}
