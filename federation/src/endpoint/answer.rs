//! What the endpoint answers: a function of the request and the document.

use std::time::Duration;

use aws_lc_rs::digest;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::bundle::document::{DocumentOptions, to_json};

/// Bytes of the digest that name a document among those of one sequence number.
const TAG_BYTES: usize = 8;

/// A bundle document, ready to be sent.
#[derive(Clone, Debug)]
pub struct Document {
    body: Bytes,
    tag: HeaderValue,
}

impl Document {
    /// The document of a bundle, the same bytes on each replica. `refresh_hint` takes the place of the
    /// bundle's own (as in SPIRE), in whole seconds; zero tells none.
    pub fn of(bundle: &Bundle, refresh_hint: Duration) -> Self {
        let refresh_hint_s = i64::try_from(refresh_hint.as_secs()).unwrap_or(i64::MAX);
        let bundle = Bundle { refresh_hint_s, ..bundle.clone() };
        let options = DocumentOptions { include_sequence: true, jwks_only: false };
        let body = to_json(&bundle, options);
        let digest = digest::digest(&digest::SHA256, body.as_bytes());
        let digest = digest.as_ref().iter().take(TAG_BYTES);
        let digest: String = digest.map(|byte| format!("{byte:02x}")).collect();
        let tag = HeaderValue::try_from(format!("\"{}-{digest}\"", bundle.sequence_number));
        // Digits and hex: always a header.
        let tag = tag.unwrap_or(HeaderValue::from_static("\"\""));
        Self { body: body.into(), tag }
    }

    /// The JSON.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// What to answer. Texts and statuses are SPIRE's; it knows no tags and no caching.
pub(super) fn answer(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    document: Option<&Document>,
) -> Response<Full<Bytes>> {
    if method != Method::GET {
        // A body after HEAD breaks a stream of HTTP/2.
        let text = if method == Method::HEAD { "" } else { "405 method not allowed\n" };
        let mut refused = told(StatusCode::METHOD_NOT_ALLOWED, text);
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    if path != "/" {
        return told(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let Some(document) = document else {
        return told(StatusCode::INTERNAL_SERVER_ERROR, "500 unable to retrieve local bundle\n");
    };
    let is_known = headers.get_all(IF_NONE_MATCH).iter().any(|tags| names(tags, &document.tag));
    let mut response = if is_known {
        let mut known = Response::new(Full::default());
        *known.status_mut() = StatusCode::NOT_MODIFIED;
        known
    } else {
        let mut whole = Response::new(Full::new(document.body.clone()));
        whole.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        whole
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, document.tag.clone());
    // May be kept, but not given out without asking: an authority that is revoked has to go at once.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Whether a list of tags names this one (RFC 9110 13.1.2: by weak comparison).
fn names(tags: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(tags), Ok(tag)) = (tags.to_str(), tag.to_str()) else { return false };
    tags.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

fn told(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use steeple_spiffe_core::TrustDomain;

    use super::*;

    fn document(sequence_number: u64) -> Document {
        let own = TrustDomain::parse("example.org").expect("name");
        let bundle = Bundle { sequence_number, refresh_hint_s: 7, ..Bundle::empty(own) };
        Document::of(&bundle, Duration::from_secs(300))
    }

    async fn text(response: Response<Full<Bytes>>) -> String {
        let body = response.into_body().collect().await.expect("body").to_bytes();
        String::from_utf8(body.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn the_document_is_at_the_root_for_get_alone() {
        let document = document(3);
        let none = HeaderMap::new();
        let table = [
            (Method::GET, "/", Some(&document), StatusCode::OK, None),
            (
                Method::GET,
                "/",
                None,
                StatusCode::INTERNAL_SERVER_ERROR,
                Some("500 unable to retrieve local bundle\n"),
            ),
            (
                Method::GET,
                "/bundle",
                Some(&document),
                StatusCode::NOT_FOUND,
                Some("404 page not found\n"),
            ),
            (Method::HEAD, "/", Some(&document), StatusCode::METHOD_NOT_ALLOWED, Some("")),
            (
                Method::POST,
                "/bundle",
                None,
                StatusCode::METHOD_NOT_ALLOWED,
                Some("405 method not allowed\n"),
            ),
        ];
        for (method, path, held, status, expected) in table {
            let response = answer(&method, path, &none, held);
            assert_eq!(response.status(), status, "{method} {path}");
            let kind = response.headers().get(CONTENT_TYPE).cloned();
            let body = text(response).await;
            match expected {
                Some(expected) => assert_eq!(body, expected),
                None => {
                    assert_eq!(kind, Some(HeaderValue::from_static("application/json")));
                    assert_eq!(body.as_bytes(), document.body());
                }
            }
        }
        let json: serde_json::Value = serde_json::from_slice(document.body()).expect("JSON");
        assert_eq!(json["spiffe_sequence"], 3);
        assert_eq!(json["spiffe_refresh_hint"], 300, "the configured one");
    }

    #[test]
    fn who_has_the_document_is_told_so_and_nothing_else() {
        let (old, new) = (document(3), document(4));
        let ask = |tags: &str, held: &Document| {
            let tags = HeaderValue::from_str(tags).expect("header");
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, tags)]);
            answer(&Method::GET, "/", &headers, Some(held))
        };
        let tag = old.tag.to_str().expect("text");
        for tags in [tag, &format!("W/{tag}"), &format!("\"x\", {tag}"), "*"] {
            let response = ask(tags, &old);
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{tags}");
            assert_eq!(response.headers().get(ETAG), Some(&old.tag));
            assert_eq!(response.headers().get(CONTENT_TYPE), None);
        }
        assert_eq!(ask(tag, &new).status(), StatusCode::OK);
        assert_eq!(ask("3", &old).status(), StatusCode::OK);
        assert_ne!(old.tag, new.tag);
    }
}
