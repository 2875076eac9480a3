//! An error with its causes on one line, each once.
//!
//! `{:#}` writes every cause behind the error that it caused. Errors of storage and of the adopted
//! formats name the system's error in their own text, because `%error` writes that alone; so it
//! would be there twice. Every room that logs an `anyhow::Error` writes it by this.

use std::fmt;

/// See the head of this file.
pub(crate) struct Causes<'a>(pub(crate) &'a anyhow::Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = String::new();
        for cause in self.0.chain() {
            let text = cause.to_string();
            // As thiserror writes a source at the end of its text.
            if last.ends_with(&text) {
                continue;
            }
            let colon = if last.is_empty() { "" } else { ": " };
            write!(f, "{colon}{text}")?;
            last = text;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("/data/t-0: {source}")]
    struct OfFile {
        source: io::Error,
    }

    #[test]
    fn a_cause_that_its_error_names_is_there_once() {
        let system = io::Error::from_raw_os_error(28);
        let words = system.to_string();
        let error = anyhow::Error::from(OfFile { source: system }).context("cannot create t-0");
        assert_eq!(Causes(&error).to_string(), format!("cannot create t-0: /data/t-0: {words}"));
    }

    #[test]
    fn causes_that_are_not_named_are_all_there() {
        let error = anyhow::anyhow!("no room").context("cannot roll").context("t-0");
        assert_eq!(Causes(&error).to_string(), "t-0: cannot roll: no room");
    }
}
