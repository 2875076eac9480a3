//! `partition.metadata`: the id of the topic that a directory belongs to. It tells the topic from a
//! later one of the same name.
//!
//! ```text
//!   version: 0
//!   topic_id: AAECA_v_BgcICQoLDA0O_w
//! ```

use std::io;

use crate::{disk::Directory, error::LogError, topic_name::TopicId};

const FILE_NAME: &str = "partition.metadata";

/// Blocks.
pub(crate) fn write(dir: &Directory, topic_id: TopicId) -> Result<(), LogError> {
    let text = format!("version: 0\ntopic_id: {topic_id}\n");
    dir.replace_file(FILE_NAME, text.as_bytes()).map_err(LogError::io(&dir.join(FILE_NAME)))
}

/// `None` when there is no such file. Blocks.
pub(crate) fn read(dir: &Directory) -> Result<Option<TopicId>, LogError> {
    let path = dir.join(FILE_NAME);
    let text = match dir.read_to_string(FILE_NAME) {
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
