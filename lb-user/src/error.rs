//! Errors as one line for logs.

/// An error with its causes, joined by colons; a cause that its error already quotes is left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let this = error.to_string();
        if !text.contains(&this) {
            text.push_str(": ");
            text.push_str(&this);
        }
        cause = error.source();
    }
    text
}
