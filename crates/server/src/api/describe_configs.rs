//! DescribeConfigs: every configuration of a topic or of this server, and its source.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 32 | DescribeConfigs | 1-4 | 1: synonyms and sources (KIP-226), 3: documentation and types (KIP-569) |
//!
//! The first of these sources that has a value counts:
//!
//! ```text
//!   topic  1 ──► the operator's setting, by the broker's name  4 ──► the default  5
//! ```
//!
//! Not done: loggers, groups, client metrics, dynamic settings (sources 2 and 3).

use std::collections::HashSet;

use penstock_storage::validate_topic_name;
use penstock_wire::messages::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
    DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
};
use penstock_wire::{ErrorCode, Str};

use crate::api::broker_configs;
use crate::api::context::RequestContext;
use crate::api::described::{BROKER, DEFAULT, Described, OF_THE_OPERATOR, OF_THE_TOPIC, TOPIC};
use crate::broker::overrides::Overrides;
use crate::broker::topic_config::{Kind, TopicConfig};
use crate::config::settings::Settings;
use crate::pace::Pace;

/// Why nothing is described, as code and message.
type Refused = (ErrorCode, String);

/// Answers a DescribeConfigs request. A resource that is named again is refused, since its answer
/// is many times as long as the question. So is one beyond the memory that an answer may take.
pub(crate) async fn describe(
    context: &RequestContext<'_>,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let mut seen = HashSet::new();
    let mut results = Vec::with_capacity(request.resources.len());
    let (mut left_bytes, mut pace) = (context.broker.settings.answer_max_bytes, Pace::default());
    for resource in &request.resources {
        let described = match seen.insert((resource.resource_type, &resource.resource_name)) {
            true => described(context, &request, resource, &mut left_bytes),
            false => Err((ErrorCode::INVALID_REQUEST, "named more than once".to_owned())),
        };
        let (error_code, error_message, configs) = match described {
            Ok(configs) => (ErrorCode::NONE, None, configs),
            Err((error_code, words)) => (error_code, Some(words.into()), Vec::new()),
        };
        pace.done(1 + configs.len()).await;
        results.push(DescribeConfigsResult {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            configs,
        });
    }
    DescribeConfigsResponse { results, ..DescribeConfigsResponse::default() }
}

/// The configs of one resource. `left_bytes` is what the answer may still grow by.
fn described(
    context: &RequestContext<'_>,
    request: &DescribeConfigsRequest,
    resource: &DescribeConfigsResource,
    left_bytes: &mut usize,
) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
    let is_asked = |one: &Described| match resource.configuration_keys.as_deref() {
        None | Some([]) => true,
        Some(keys) => keys.contains(&one.name),
    };
    let all = configs_of(context, resource)?.into_iter();
    let mut configs: Vec<_> = all.filter(is_asked).map(|one| answered(one, request)).collect();
    // Collecting in place keeps the memory of larger elements.
    configs.shrink_to_fit();
    let bytes = configs.iter().map(size_bytes).sum();
    *left_bytes = left_bytes.checked_sub(bytes).ok_or_else(|| {
        let words = "more than one answer holds: describe fewer resources at once";
        (ErrorCode::INVALID_REQUEST, words.to_owned())
    })?;
    Ok(configs)
}

/// Roughly what a config takes in memory and encoded.
fn size_bytes(config: &DescribeConfigsResourceResult) -> usize {
    let of = |text: &Option<Str>| text.as_ref().map_or(0, |text| text.len());
    let synonym = |one: &DescribeConfigsSynonym| size_of_val(one) + one.name.len() + of(&one.value);
    let synonyms = config.synonyms.iter().map(synonym).sum::<usize>();
    size_of_val(config)
        + config.name.len()
        + of(&config.value)
        + of(&config.documentation)
        + synonyms
}

fn answered(
    described: Described,
    request: &DescribeConfigsRequest,
) -> DescribeConfigsResourceResult {
    let synonym = |(name, value, source)| DescribeConfigsSynonym { name, value, source };
    DescribeConfigsResourceResult {
        value: described.value(),
        read_only: described.is_read_only,
        config_source: described.source(),
        is_sensitive: false,
        config_type: described.kind as i8,
        documentation: request.include_documentation.then_some(described.what),
        synonyms: match request.include_synonyms {
            true => described.synonyms.into_iter().map(synonym).collect(),
            false => Vec::new(),
        },
        name: described.name,
    }
}

fn configs_of(
    context: &RequestContext<'_>,
    resource: &DescribeConfigsResource,
) -> Result<Vec<Described>, Refused> {
    let settings = &context.broker.settings;
    match resource.resource_type {
        TOPIC => {
            let name = &resource.resource_name;
            validate_topic_name(name)
                .map_err(|error| (ErrorCode::INVALID_TOPIC_EXCEPTION, error.to_string()))?;
            let topic = context.broker.topics.get(name).ok_or_else(|| {
                (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("there is no topic {name}"))
            })?;
            let mut described = of_topic(&topic.overrides(), settings);
            if topic.is_retention_held() {
                described.iter_mut().for_each(Described::hold_retention);
            }
            Ok(described)
        }
        BROKER => {
            match broker_configs::check_id(&context.broker.cluster, &resource.resource_name)? {
                // All brokers' dynamic settings: there are none.
                None => Ok(Vec::new()),
                Some(_) => {
                    let limit = context.broker.memory.limit.as_ref().map(|limit| limit.bytes);
                    Ok(broker_configs::describe(settings, limit, &context.broker.cluster))
                }
            }
        }
        other => Err((
            ErrorCode::INVALID_REQUEST,
            format!("only topics (2) and brokers (4) have configs here, not resource type {other}"),
        )),
    }
}

/// Every configuration of a topic with these values of its own.
pub(crate) fn of_topic(overrides: &Overrides, settings: &Settings) -> Vec<Described> {
    let known = TopicConfig::described().map(|config| known(config, overrides, settings));
    let is_unknown = |(key, _): &(&str, &str)| TopicConfig::named(key).is_none();
    known.chain(overrides.iter().filter(is_unknown).map(unknown)).collect()
}

fn known(config: &'static TopicConfig, overrides: &Overrides, settings: &Settings) -> Described {
    let name = Str::from_static(config.name);
    let own =
        overrides.get(config.name).map(|value| (name.clone(), Some(value.into()), OF_THE_TOPIC));
    let of_server = config.synonym.into_iter().flat_map(|synonym| {
        let default = synonym.has_default.then_some(config.default);
        with_default(synonym.name, default, settings)
    });
    let otherwise = config.synonym.and_then(|synonym| settings.text(synonym.name)).map(Str::from);
    Described {
        kind: config.kind(),
        is_read_only: false,
        synonyms: own.into_iter().chain(of_server).collect(),
        otherwise: otherwise.or(Some(Str::from_static(config.default))),
        what: Str::from_static(config.what),
        name,
    }
}

/// The operator's value under a name, and the default.
pub(crate) fn with_default(
    name: &'static str,
    default: Option<&'static str>,
    settings: &Settings,
) -> impl Iterator<Item = (Str, Option<Str>, i8)> + use<> {
    let set = settings.explicit.contains(name).then(|| settings.text(name)).flatten();
    let set = set.map(|value| (Str::from_static(name), Some(value.into()), OF_THE_OPERATOR));
    let default =
        default.map(|value| (Str::from_static(name), Some(Str::from_static(value)), DEFAULT));
    set.into_iter().chain(default)
}

/// A config that a topic brought along from a later Kafka.
fn unknown((key, value): (&str, &str)) -> Described {
    Described {
        name: key.into(),
        kind: Kind::String,
        is_read_only: false,
        synonyms: vec![(key.into(), Some(value.into()), OF_THE_TOPIC)],
        otherwise: None,
        what: Str::from_static("Not known here; kept as it came."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(name: &str, overrides: &Overrides, settings: &Settings) -> Described {
        let all = of_topic(overrides, settings);
        all.into_iter().find(|one| *one.name == *name).unwrap()
    }

    fn places(one: &Described) -> Vec<(&str, Option<&str>, i8)> {
        one.synonyms.iter().map(|(name, value, at)| (&**name, value.as_deref(), *at)).collect()
    }

    #[test]
    fn the_topic_goes_over_the_operator_and_that_over_the_default() {
        let (mut overrides, mut settings) = (Overrides::default(), Settings::default());
        let default = ("log.segment.bytes", Some("1073741824"), DEFAULT);
        let one = described("segment.bytes", &overrides, &settings);
        assert_eq!((one.value().as_deref(), one.source()), (Some("1073741824"), DEFAULT));
        assert_eq!(places(&one), [default]);

        settings.set("log.segment.bytes", "2048").unwrap();
        let set = ("log.segment.bytes", Some("2048"), OF_THE_OPERATOR);
        let one = described("segment.bytes", &overrides, &settings);
        assert_eq!((one.value().as_deref(), one.source()), (Some("2048"), OF_THE_OPERATOR));
        assert_eq!(places(&one), [set, default]);

        overrides.set("segment.bytes", "4096").unwrap();
        let one = described("segment.bytes", &overrides, &settings);
        assert_eq!((one.value().as_deref(), one.source()), (Some("4096"), OF_THE_TOPIC));
        assert_eq!(places(&one), [("segment.bytes", Some("4096"), OF_THE_TOPIC), set, default]);
    }

    #[test]
    fn a_name_whose_default_kafka_does_not_describe_has_none() {
        let (overrides, mut settings) = (Overrides::default(), Settings::default());
        let one = described("retention.ms", &overrides, &settings);
        assert_eq!((one.value().as_deref(), one.source()), (Some("604800000"), DEFAULT));
        assert_eq!(places(&one), []);
        settings.set("log.retention.ms", "-1").unwrap();
        let one = described("retention.ms", &overrides, &settings);
        assert_eq!(places(&one), [("log.retention.ms", Some("-1"), OF_THE_OPERATOR)]);
    }

    #[test]
    fn the_servers_defaults_are_kafkas() {
        let settings = Settings::default();
        for config in TopicConfig::described() {
            let text = config.synonym.and_then(|synonym| settings.text(synonym.name));
            assert_eq!(
                text.as_deref().unwrap_or(config.default),
                config.default,
                "{}",
                config.name
            );
        }
    }

    #[test]
    fn a_retention_that_is_not_known_is_shown_as_none_and_as_nobodys_setting() {
        let mut overrides = Overrides::default();
        overrides.adopt("retention.bytes", "77");
        let shown = |name| {
            let mut one = described(name, &overrides, &Settings::default());
            one.hold_retention();
            (one.value().as_deref().map(str::to_owned), one.source())
        };
        assert_eq!(shown("retention.ms"), (Some("-1".to_owned()), DEFAULT));
        assert_eq!(shown("retention.bytes"), (Some("77".to_owned()), OF_THE_TOPIC));
        assert_eq!(shown("segment.ms"), (Some("604800000".to_owned()), DEFAULT));
    }

    #[test]
    fn what_a_topic_brought_along_is_described_whatever_it_is() {
        let mut overrides = Overrides::default();
        overrides.adopt("new.in.5", "x");
        overrides.adopt("internal.segment.bytes", "2048");
        let all = of_topic(&overrides, &Settings::default());
        assert_eq!(all.len(), TopicConfig::described().count() + 1);
        let one = described("new.in.5", &overrides, &Settings::default());
        assert_eq!(
            (one.kind, one.source(), one.value().as_deref()),
            (Kind::String, OF_THE_TOPIC, Some("x"))
        );
    }
}
