//! This server's settings as a broker's configurations, with facts that are fixed here under
//! Kafka's names.
//!
//! Called by describe_configs and alter_configs. All of it is read-only: settings are read at
//! start.

use penstock_wire::{ErrorCode, Str};

use crate::api::described::{DEFAULT, Described, OF_THE_OPERATOR};
use crate::broker::meta_properties::Cluster;
use crate::broker::topic_config::{Kind, TopicConfig};
use crate::config::settings::{KEYS, Settings};

/// Settings that are 32-bit numbers in Kafka; its other numbers have 64 bits.
const INTS: &[&str] = &[
    "num.partitions",
    "log.segment.bytes",
    "message.max.bytes",
    "socket.request.max.bytes",
    "fetch.max.bytes",
    "max.connections",
    "socket.send.buffer.bytes",
    "group.initial.rebalance.delay.ms",
    "group.min.session.timeout.ms",
    "group.max.session.timeout.ms",
    "group.max.size",
    "workers",
];

/// The broker that is meant. `None`: all brokers, for which Kafka has the empty name.
///
/// # Errors
/// Another broker is meant; as code and message.
pub(crate) fn check_id(cluster: &Cluster, name: &str) -> Result<Option<i32>, (ErrorCode, String)> {
    let refused = |words| Err((ErrorCode::INVALID_REQUEST, words));
    match name.parse::<i32>() {
        _ if name.is_empty() => Ok(None),
        Ok(id) if id == cluster.node_id => Ok(Some(id)),
        Ok(id) => refused(format!("this is broker {}, not {id}", cluster.node_id)),
        Err(_) => refused(format!("`{name}` is no broker id: a whole number is")),
    }
}

/// Every configuration of this server.
pub(crate) fn describe(
    settings: &Settings,
    memory_limit_bytes: Option<u64>,
    cluster: &Cluster,
) -> Vec<Described> {
    let mut defaults = Settings::default();
    if let Some(bytes) = memory_limit_bytes {
        defaults.fit_memory(bytes);
    }
    let of_settings = KEYS.iter().map(|(key, what)| of_setting(key, what, settings, &defaults));
    let is_setting = |name: &str| KEYS.iter().any(|(key, _)| *key == name);
    let of_topics = TopicConfig::described().filter_map(|config| {
        let synonym = config.synonym.filter(|synonym| !is_setting(synonym.name))?;
        Some(Described {
            kind: config.kind(),
            ..fact(synonym.name, config.default.into(), DEFAULT, config.what)
        })
    });
    of_settings.chain(of_topics).chain(facts(settings, cluster)).collect()
}

fn of_setting(
    key: &'static str,
    what: &'static str,
    settings: &Settings,
    defaults: &Settings,
) -> Described {
    let name = Str::from_static(key);
    let text = |settings: &Settings| settings.text(key).map(Str::from);
    let set = settings.explicit.contains(key).then(|| text(settings));
    let set = set.map(|value| (name.clone(), value, OF_THE_OPERATOR));
    let default = text(defaults).map(|value| (name.clone(), Some(value), DEFAULT));
    Described {
        kind: kind_of(key, settings.text(key).as_deref().unwrap_or_default()),
        is_read_only: true,
        synonyms: set.into_iter().chain(default).collect(),
        otherwise: None,
        what: Str::from_static(what),
        name,
    }
}

fn kind_of(key: &str, value: &str) -> Kind {
    match value {
        "true" | "false" => Kind::Boolean,
        _ if INTS.contains(&key) => Kind::Int,
        _ if value.parse::<i128>().is_ok() => Kind::Long,
        _ => Kind::String,
    }
}

/// Facts that are no setting here, or have another name in Kafka.
fn facts(settings: &Settings, cluster: &Cluster) -> impl Iterator<Item = Described> {
    let source = |key: &str| match settings.explicit.contains(key) {
        true => OF_THE_OPERATOR,
        false => DEFAULT,
    };
    let (host, port) = &cluster.advertised;
    let node_id = cluster.node_id.to_string();
    let int = |described| Described { kind: Kind::Int, ..described };
    let list = |described| Described { kind: Kind::List, ..described };
    let listeners = format!("PLAINTEXT://{}", settings.listen);
    let advertised = format!("PLAINTEXT://{host}:{port}");
    let log_dirs = settings.data_dir.display().to_string();
    [
        int(fact("node.id", node_id.clone(), OF_THE_OPERATOR, "this server, from meta.properties")),
        int(fact("broker.id", node_id, OF_THE_OPERATOR, "the same under its older name")),
        list(fact("listeners", listeners, source("listen"), "where the server listens")),
        list(fact(
            "advertised.listeners",
            advertised,
            source("advertise"),
            "what clients are given",
        )),
        list(fact("log.dirs", log_dirs, source("data-dir"), "where the partitions live")),
        int(fact("default.replication.factor", "1".into(), DEFAULT, "there is one server")),
        Described {
            kind: Kind::Boolean,
            ..fact("delete.topic.enable", "true".into(), DEFAULT, "topics can be deleted")
        },
    ]
    .into_iter()
}

fn fact(name: &'static str, value: String, source: i8, what: &'static str) -> Described {
    let name = Str::from_static(name);
    Described {
        kind: Kind::String,
        is_read_only: true,
        synonyms: vec![(name.clone(), Some(value.into()), source)],
        otherwise: None,
        what: Str::from_static(what),
        name,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn cluster() -> Cluster {
        Cluster { id: "c".to_owned(), node_id: 7, advertised: ("log.example".to_owned(), 9092) }
    }

    #[test]
    fn a_broker_is_described_once_by_each_name_and_with_the_types_of_kafka() {
        let mut settings = Settings::default();
        settings.set("log.retention.ms", "1000").unwrap();
        let all = describe(&settings, None, &cluster());
        assert_eq!(all.iter().map(|one| &*one.name).collect::<BTreeSet<_>>().len(), all.len());
        let one = |name: &str| {
            let one = all.iter().find(|one| *one.name == *name).unwrap();
            (one.value().unwrap().to_string(), one.kind, one.source())
        };
        let expected = |value: &str, kind, source| (value.to_owned(), kind, source);
        assert_eq!(one("node.id"), expected("7", Kind::Int, OF_THE_OPERATOR));
        assert_eq!(one("log.retention.ms"), expected("1000", Kind::Long, OF_THE_OPERATOR));
        assert_eq!(one("message.max.bytes"), expected("1048588", Kind::Int, DEFAULT));
        assert_eq!(one("auto.create.topics.enable"), expected("true", Kind::Boolean, DEFAULT));
        assert_eq!(one("min.insync.replicas"), expected("1", Kind::Int, DEFAULT));
        assert_eq!(one("log.cleanup.policy"), expected("delete", Kind::List, DEFAULT));
        let advertised = "PLAINTEXT://log.example:9092";
        assert_eq!(one("advertised.listeners"), expected(advertised, Kind::List, DEFAULT));
        assert!(all.iter().all(|one| one.is_read_only));
    }

    #[test]
    fn another_broker_is_not_this_one() {
        assert_eq!(check_id(&cluster(), "7"), Ok(Some(7)));
        assert_eq!(check_id(&cluster(), ""), Ok(None));
        for name in ["8", "x", "99999999999"] {
            assert_eq!(check_id(&cluster(), name).unwrap_err().0, ErrorCode::INVALID_REQUEST);
        }
    }
}
