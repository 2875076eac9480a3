//! The live page: one document without outside resources.
//!
//! The browser runs the page's own script and style and nothing else: both carry a number that is
//! new for each answer, and the policy allows only what carries it. All that comes from clients
//! reaches the page as JSON on /events, and the script shows it as text.

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};

const PAGE: &str = include_str!("page.html");

/// What stands in the document where the number belongs.
const NONCE: &str = "{{nonce}}";

/// The page, for one browser, once.
pub(super) fn response() -> Response<Full<Bytes>> {
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let mut response = Response::new(Full::new(PAGE.replace(NONCE, &nonce).into()));
    for (name, value) in headers(&nonce) {
        let value = HeaderValue::from_str(&value).expect("printable characters");
        response.headers_mut().insert(name, value);
    }
    response
}

fn headers(nonce: &str) -> [(HeaderName, String); 5] {
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    [
        (CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (CONTENT_SECURITY_POLICY, policy),
        (CACHE_CONTROL, "no-store".to_owned()),
        (REFERRER_POLICY, "no-referrer".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_the_page_s_own_script_and_style_once() {
        let policy = || response().headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy().starts_with("default-src 'none'; script-src 'nonce-"), "{}", policy());
        assert_ne!(policy(), policy(), "a number is used once");
        assert_eq!(PAGE.matches(NONCE).count(), 2, "one style, one script");
        assert_eq!(PAGE.matches("<script").count() + PAGE.matches("<style").count(), 2);
    }

    /// Handlers and styles within tags would be refused by the policy; text from clients must never
    /// be parsed.
    #[test]
    fn the_page_brings_all_it_needs_and_parses_no_text_as_html() {
        let refused = [
            " onclick=",
            " onload=",
            " style=",
            "javascript:",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "http://",
            "https://",
            "@import",
            "url(",
            " src=",
        ];
        for word in refused {
            // The names of XML's vocabularies are no addresses.
            let page = PAGE.replace("http://www.w3.org/2000/svg", "");
            assert!(!page.contains(word), "the page has {word}");
        }
    }
}
