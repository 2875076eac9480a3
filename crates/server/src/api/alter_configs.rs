//! IncrementalAlterConfigs: changes the configuration of topics.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 44 | IncrementalAlterConfigs | 0-1 | 0: KIP-339 |
//!
//! The request's form is checked first, then the values, and last whether there is such a topic, as
//! in Kafka. A topic's changes are made together or not at all. Not done: changing a running
//! server's own settings, loggers, groups, client metrics.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use penstock_ring::blocking;
use penstock_storage::validate_topic_name;
use penstock_wire::ErrorCode;
use penstock_wire::messages::{
    AlterConfigsResource, AlterConfigsResourceResponse, AlterableConfig,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};

use crate::api::broker_configs;
use crate::api::context::RequestContext;
use crate::api::described::{BROKER, TOPIC};
use crate::api::error_codes;
use crate::broker::overrides::Overrides;
use crate::broker::topic_config::{Kind, TopicConfig, list};
use crate::broker::topics::ChangeError;

/// Operations on a value.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Why nothing was changed, as code and message.
type Refused = (ErrorCode, String);

/// Answers an IncrementalAlterConfigs request.
pub(crate) async fn alter(
    context: &RequestContext<'_>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mut times = HashMap::new();
    for resource in &request.resources {
        *times.entry((resource.resource_type, resource.resource_name.clone())).or_insert(0) += 1;
    }
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let outcome = match times[&(resource.resource_type, resource.resource_name.clone())] {
            1 => alter_one(context, &resource, request.validate_only).await,
            _ => Err(invalid("named more than once")),
        };
        let (error_code, error_message) = match outcome {
            Ok(()) => (ErrorCode::NONE, None),
            Err((error_code, words)) => (error_code, Some(words.into())),
        };
        responses.push(AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        });
    }
    IncrementalAlterConfigsResponse { responses, ..IncrementalAlterConfigsResponse::default() }
}

async fn alter_one(
    context: &RequestContext<'_>,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), Refused> {
    check_form(&resource.configs)?;
    match resource.resource_type {
        TOPIC => {}
        BROKER => {
            broker_configs::check_id(&context.broker.cluster, &resource.resource_name)?;
            return Err(invalid(
                "a server's settings are read at start: none is changed while it runs",
            ));
        }
        other => {
            return Err(invalid(format!("resource type {other} has no configs here to change")));
        }
    }
    let name = resource.resource_name.to_string();
    if name.is_empty() {
        return Err(invalid("topics have no configs in common that could be changed"));
    }
    validate_topic_name(&name)
        .map_err(|error| (ErrorCode::INVALID_TOPIC_EXCEPTION, error.to_string()))?;
    let topic = context.broker.topics.get(&name);
    let overrides = topic.as_ref().map(|topic| topic.overrides()).unwrap_or_default();
    altered(overrides, &resource.configs).map_err(|words| (ErrorCode::INVALID_CONFIG, words))?;
    let refused = |error: ChangeError| (error_codes::of_change(&error), error.to_string());
    topic.ok_or_else(|| refused(ChangeError::Unknown))?;
    if validate_only {
        return Ok(());
    }
    // The topic's own configs are read again: another request may have changed them meanwhile.
    let (broker, configs) = (Arc::clone(context.broker), resource.configs.clone());
    let change = move || broker.topics.reconfigure(&name, |now| altered(now, &configs));
    let _one_at_a_time = context.broker.altering.lock().await;
    match blocking::run(change).await {
        Ok(outcome) => outcome.map_err(refused),
        Err(_) => Err((ErrorCode::UNKNOWN_SERVER_ERROR, "the change panicked".to_owned())),
    }
}

fn invalid(words: impl Into<String>) -> Refused {
    (ErrorCode::INVALID_REQUEST, words.into())
}

/// Checks what needs no topic.
fn check_form(configs: &[AlterableConfig]) -> Result<(), Refused> {
    let mut names = HashSet::new();
    for config in configs {
        if !names.insert(&config.name) {
            return Err(invalid(format!("config `{}` is named more than once", config.name)));
        }
        match config.config_operation {
            DELETE => {}
            SET | APPEND | SUBTRACT if config.value.is_some() => {}
            SET | APPEND | SUBTRACT => {
                return Err(invalid(format!("config `{}` has no value", config.name)));
            }
            other => {
                return Err(invalid(format!(
                    "config `{}`: no such operation: {other}",
                    config.name
                )));
            }
        }
    }
    Ok(())
}

/// The topic's own configs after these changes.
fn altered(mut overrides: Overrides, configs: &[AlterableConfig]) -> Result<Overrides, String> {
    for config in configs {
        let (name, value) = (&*config.name, config.value.as_deref().unwrap_or_default());
        match config.config_operation {
            SET => overrides.set(name, value)?,
            DELETE => overrides.unset(name),
            operation => {
                let known = TopicConfig::named(name).filter(|known| known.kind() == Kind::List);
                let known = known.ok_or_else(|| format!("topic config `{name}` is no list"))?;
                let now = overrides.get(name).unwrap_or(known.default);
                let value = match operation {
                    APPEND => with(now, value),
                    _ => without(now, value),
                };
                overrides.set(name, &value)?;
            }
        }
    }
    if configs.iter().any(|config| config.name.ends_with(".compaction.lag.ms")) {
        overrides.check()?;
    }
    Ok(overrides)
}

/// A list with these elements added, each once.
fn with(now: &str, added: &str) -> String {
    let mut elements: Vec<&str> = list(now).collect();
    let mut known: HashSet<&str> = elements.iter().copied().collect();
    elements.extend(list(added).filter(|element| known.insert(element)));
    elements.join(",")
}

fn without(now: &str, taken: &str) -> String {
    let taken: HashSet<&str> = list(taken).collect();
    list(now).filter(|element| !taken.contains(element)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, config_operation: i8, value: Option<&str>) -> AlterableConfig {
        AlterableConfig { name: name.into(), config_operation, value: value.map(Into::into) }
    }

    fn altered_from(
        pairs: &[(&str, &str)],
        changes: &[AlterableConfig],
    ) -> Result<Overrides, String> {
        let mut overrides = Overrides::default();
        pairs.iter().for_each(|(key, value)| overrides.adopt(key, value));
        altered(overrides, changes)
    }

    #[test]
    fn lists_grow_and_shrink_from_what_is_in_force() {
        let policy = |before: &[(&str, &str)], operation, value: &str| {
            let changes = [change("cleanup.policy", operation, Some(value))];
            let overrides = altered_from(before, &changes)?;
            Ok::<_, String>(overrides.get("cleanup.policy").map(str::to_owned))
        };
        let is = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(policy(&[], APPEND, "delete"), is("delete"));
        assert_eq!(policy(&[], SUBTRACT, "delete"), is(""));
        assert_eq!(policy(&[], SUBTRACT, "compact"), is("delete"));
        let both = [("cleanup.policy", "compact, delete")];
        assert_eq!(policy(&both, SUBTRACT, "compact"), is("delete"));
        assert!(policy(&both, SUBTRACT, "delete").is_err(), "what stays cannot be promised");
        assert!(policy(&[], APPEND, "compact").is_err());
        let changes = [change("follower.replication.throttled.replicas", APPEND, Some("0:1,0:1"))];
        let throttled = [("follower.replication.throttled.replicas", "1:1")];
        let overrides = altered_from(&throttled, &changes).unwrap();
        assert_eq!(overrides.get("follower.replication.throttled.replicas"), Some("1:1,0:1"));
    }

    /// Each element was searched for in all others: one request took a worker for minutes.
    #[test]
    fn a_long_list_grows_and_shrinks_in_no_time() {
        let long: Vec<String> = (0..200_000).map(|n| format!("{n}:1")).collect();
        let long = long.join(",");
        assert_eq!(with(&long, &long), long);
        assert_eq!(without(&long, &long), "");
    }

    #[test]
    fn a_topic_that_came_with_what_cannot_be_done_here_can_be_changed_otherwise() {
        let came = [("cleanup.policy", "compact"), ("new.in.5", "x")];
        let changes = [change("retention.ms", SET, Some("5")), change("new.in.5", DELETE, None)];
        let overrides = altered_from(&came, &changes).unwrap();
        let left: Vec<_> = overrides.iter().collect();
        assert_eq!(left, [("cleanup.policy", "compact"), ("retention.ms", "5")]);
    }

    #[test]
    fn values_are_refused_in_words() {
        let refusals = [
            (change("no.such.key", SET, Some("1")), "unknown"),
            (change("no.such.key", APPEND, Some("1")), "no list"),
            (change("retention.ms", SUBTRACT, Some("1")), "no list"),
            (change("retention.ms", SET, Some("x")), "whole number"),
            (change("min.compaction.lag.ms", SET, Some("9")), "only 5"),
        ];
        for (change, words) in refusals {
            let refused = altered_from(&[("max.compaction.lag.ms", "5")], &[change]).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
        assert!(altered_from(&[], &[change("no.such.key", DELETE, None)]).is_ok(), "as in Kafka");
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_any_topic_is_looked_at() {
        let twice = [change("a", DELETE, None), change("a", SET, Some("1"))];
        let nothing = [change("a", SET, None)];
        let other = [change("a", 9, Some("1"))];
        for configs in [&twice[..], &nothing, &other] {
            assert_eq!(check_form(configs).unwrap_err().0, ErrorCode::INVALID_REQUEST);
        }
        assert!(check_form(&[change("a", DELETE, None), change("b", APPEND, Some(""))]).is_ok());
    }
}
