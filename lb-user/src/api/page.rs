//! `GET /lb`: the status page, one document that needs nothing from elsewhere. Its script follows `GET /api/v1/events`.

use std::sync::LazyLock;

use axum::http::header::{self, HeaderName};
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const FRAME: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// In the order in which they build on each other.
const SCRIPTS: [&str; 8] = [
    include_str!("page/format.js"),
    include_str!("page/rates.js"),
    include_str!("page/history.js"),
    include_str!("page/draw.js"),
    include_str!("page/change.js"),
    include_str!("page/render.js"),
    include_str!("page/board.js"),
    include_str!("page/follow.js"),
];

static DOCUMENT: LazyLock<Document> = LazyLock::new(Document::new);

/// The page, and what a browser may do with it.
struct Document {
    html: String,
    policy: String,
}

impl Document {
    fn new() -> Self {
        let script = SCRIPTS.concat();
        let html = FRAME.replace("/* style */", STYLE).replace("/* script */", &script);
        // By hash, so that not even markup that got into the page could bring a script along.
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            source(&script),
            source(STYLE)
        );
        Self { html, policy }
    }
}

/// An inline script or style as Content-Security-Policy names it (CSP Level 3, section 2.3.1).
fn source(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

pub async fn answer() -> impl IntoResponse {
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, &DOCUMENT.policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // A page of an earlier version may not understand the events of this one.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, DOCUMENT.html.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_needs_nothing_from_elsewhere() {
        for marker in ["/* style */", "/* script */", "@import", "url(", "<link rel=\"stylesheet\"", "<script src"] {
            assert!(!DOCUMENT.html.contains(marker), "{marker}");
        }
        let addresses = DOCUMENT.html.matches("://").count();
        assert_eq!(addresses, DOCUMENT.html.matches("http://www.w3.org/2000/svg").count(), "only the name of SVG's namespace");
    }

    #[test]
    fn nothing_that_is_shown_is_taken_for_markup() {
        let script = SCRIPTS.concat();
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "</script", "DOMParser"] {
            assert!(!script.contains(way), "{way}");
        }
    }

    #[test]
    fn the_policy_names_the_one_script_and_the_one_style() {
        let policy = &DOCUMENT.policy;
        assert_eq!(policy.matches("'sha256-").count(), 2, "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}
