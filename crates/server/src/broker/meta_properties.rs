//! This server's identity to its clients: node id, cluster id, address.
//!
//! Kept in `meta.properties` in Kafka's form, so a directory keeps the identity of its cluster.
//! Read once at start; every answer to Metadata and DescribeCluster has it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use penstock_storage::TopicId;

use crate::config::settings::Settings;
use crate::small_file::replace_file;

const FILE_NAME: &str = "meta.properties";

/// The node id of a directory that has none yet.
const DEFAULT_NODE_ID: i32 = 0;

/// A cluster of one.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) id: String,
    pub(crate) node_id: i32,
    pub(crate) advertised: (String, u16),
}

impl Cluster {
    /// Reads the directory's identity, or makes one for an empty directory. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, written or understood.
    pub(crate) fn open(settings: &Settings, bound: SocketAddr) -> anyhow::Result<Self> {
        let path = settings.data_dir.join(FILE_NAME);
        let (id, node_id) = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text).with_context(|| format!("in {}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(&path)?,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Ok(Cluster { id, node_id, advertised: settings.advertised(bound) })
    }
}

/// The node id of a data directory, as text; `None` if the directory has none written down. Blocks.
pub(crate) fn node_id_of(data_dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data_dir.join(FILE_NAME)).ok()?;
    Some(parse(&text).ok()?.1.to_string())
}

fn create(path: &Path) -> anyhow::Result<(String, i32)> {
    // A cluster id is 16 random bytes in the same base64 as a topic id.
    let id = TopicId::random().to_string();
    let text = format!("version=1\ncluster.id={id}\nnode.id={DEFAULT_NODE_ID}\n");
    replace_file(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((id, DEFAULT_NODE_ID))
}

/// Reads version 0 (`broker.id`) and 1 (`node.id`) of the file.
fn parse(text: &str) -> anyhow::Result<(String, i32)> {
    let properties = text.lines().filter_map(|line| line.trim().split_once('='));
    let (mut cluster_id, mut node_id) = (None, None);
    for (key, value) in properties {
        match key.trim() {
            "cluster.id" => cluster_id = Some(value.trim().to_owned()),
            "node.id" | "broker.id" => {
                let number = value.trim().parse::<i32>();
                node_id = Some(number.with_context(|| format!("{key} is not a number: {value}"))?);
            }
            _ => {}
        }
    }
    let cluster_id = cluster_id.context("no cluster.id")?;
    Ok((cluster_id, node_id.context("neither node.id nor broker.id")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_own_file_is_understood() {
        let text = "#\n#Tue Nov 24\nnode.id=7\ndirectory.id=x\nversion=1\ncluster.id=abc\n";
        assert_eq!(parse(text).unwrap(), ("abc".to_owned(), 7));
        assert_eq!(parse("broker.id=3\ncluster.id=x").unwrap(), ("x".to_owned(), 3));
    }

    #[test]
    fn a_directory_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { data_dir: dir.path().to_owned(), ..Settings::default() };
        let bound = SocketAddr::from(([127, 0, 0, 1], 9092));
        let first = Cluster::open(&settings, bound).unwrap();
        assert_eq!(Cluster::open(&settings, bound).unwrap().id, first.id);
    }
}
