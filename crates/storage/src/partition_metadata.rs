//! `partition.metadata`: which topic a directory belongs to, should its name be used again.
//!
//! ```text
//!   version: 0
//!   topic_id: AAECA_v_BgcICQoLDA0O_w
//! ```

use std::{fs, io, path::Path};

use crate::{LogError, TopicId, epochs::replace_file};

const FILE_NAME: &str = "partition.metadata";

/// Blocks.
pub(crate) fn write(dir: &Path, topic_id: TopicId) -> Result<(), LogError> {
    let path = dir.join(FILE_NAME);
    let text = format!("version: 0\ntopic_id: {topic_id}\n");
    replace_file(&path, text.as_bytes()).map_err(LogError::io(&path))
}

/// `None` when there is no such file. Blocks.
pub(crate) fn read(dir: &Path) -> Result<Option<TopicId>, LogError> {
    let path = dir.join(FILE_NAME);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LogError::io(&path)(error)),
    };
    let bad = |what: String| LogError::Metadata { path: path.clone(), what };
    let field = |name| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    match field("version:") {
        Some("0") => {}
        version => return Err(bad(format!("version {version:?} is not 0"))),
    }
    let id = field("topic_id:").ok_or_else(|| bad("no topic_id".to_owned()))?;
    id.parse().map(Some).map_err(|error| bad(format!("{error}")))
}
