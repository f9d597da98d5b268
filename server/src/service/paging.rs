//! Pages of lists, as SPIRE has them (`spire-api` 0.8): a size of zero asks for everything and
//! ignores the token; every page with a row has a token, the last one too.

use steeple_raft_store::RowNumber;

use crate::status::Failure;

/// Which part of a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Rows after this one.
    pub(super) after: Option<RowNumber>,
    /// At most so many; `None` = all.
    pub(super) limit: Option<usize>,
}

impl Page {
    /// Reads size and token of a request; `failed` begins the text of a refusal (`failed to list
    /// entries`).
    ///
    /// # Errors
    ///
    /// The token is none of ours. SPIRE answers `Internal`.
    pub(super) fn of(size: i32, token: &str, failed: &str) -> Result<Self, Failure> {
        let limit = usize::try_from(size).ok().filter(|size| *size > 0);
        if limit.is_none() || token.is_empty() {
            return Ok(Self { after: None, limit });
        }
        let row = token.parse().map_err(|_not_a_number| {
            Failure::internal(format!("{failed}: could not parse token '{token}'"))
        })?;
        Ok(Self { after: Some(RowNumber(row)), limit })
    }

    /// The token of the next page.
    pub(super) fn next_token(&self, last: Option<RowNumber>) -> String {
        match (self.limit, last) {
            (Some(_), Some(row)) => row.0.to_string(),
            (None, _) | (_, None) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_and_continued_as_in_spire() {
        let page = |size, token| Page::of(size, token, "failed to list entries");
        let table = [
            (0, "", None, None),
            (0, "nonsense", None, None),
            (-5, "7", None, None),
            (10, "", None, Some(10)),
            (10, "7", Some(RowNumber(7)), Some(10)),
        ];
        for (size, token, after, limit) in table {
            assert_eq!(page(size, token), Ok(Page { after, limit }), "{size} {token:?}");
        }
        let failure = page(1, "x").expect_err("no number");
        assert_eq!(failure.message(), "failed to list entries: could not parse token 'x'");
        assert_eq!(failure.code(), tonic::Code::Internal);

        let paged = Page { after: None, limit: Some(1) };
        assert_eq!(paged.next_token(Some(RowNumber(3))), "3");
        assert_eq!(paged.next_token(None), "");
        assert_eq!(Page { after: None, limit: None }.next_token(Some(RowNumber(3))), "");
    }
}
