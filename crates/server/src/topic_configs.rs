//! DescribeConfigs and IncrementalAlterConfigs for topics.
//!
//! Called by api. Brokers have no configs here that could be described: they answer with an empty list.

use std::sync::Arc;

use penstock_storage::{LogConfig, TimestampType};
use penstock_wire::messages::{
    AlterConfigsResource, AlterConfigsResourceResponse, DescribeConfigsRequest,
    DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use penstock_wire::{ErrorCode, Str};

use crate::errors;
use crate::overrides::Overrides;
use crate::topics::ChangeError;
use crate::worker::Worker;

/// Resource types.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// Where a value comes from.
pub(crate) const OF_THE_TOPIC: i8 = 1;
const DEFAULT: i8 = 5;

/// What to do with a value.
const SET: i8 = 0;
const DELETE: i8 = 1;

/// Answers a DescribeConfigs request.
pub(crate) fn describe(
    worker: &Worker,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let results = request.resources.into_iter().map(|resource| {
        let configs = configs_of(worker, &resource);
        let (error_code, configs) = match configs {
            Ok(configs) => (ErrorCode::NONE, configs),
            Err(error_code) => (error_code, Vec::new()),
        };
        DescribeConfigsResult {
            error_code,
            error_message: error_code.name().filter(|_| !error_code.is_none()).map(Str::from),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            configs,
        }
    });
    DescribeConfigsResponse { results: results.collect(), ..DescribeConfigsResponse::default() }
}

fn configs_of(
    worker: &Worker,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, ErrorCode> {
    match resource.resource_type {
        BROKER => return Ok(Vec::new()),
        TOPIC => {}
        _ => return Err(ErrorCode::INVALID_REQUEST),
    }
    let topic = worker.server.topics.get(&resource.resource_name);
    let topic = topic.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let overrides = topic.overrides();
    let is_asked = |key: &str| match &resource.configuration_keys {
        Some(keys) => keys.iter().any(|asked| **asked == *key),
        None => true,
    };
    let config = overrides.apply(&topic.defaults(&worker.server.settings.log));
    let described = values(&config).into_iter().filter(|(key, _)| is_asked(key));
    let result = |(key, value): (&'static str, String)| DescribeConfigsResourceResult {
        config_source: if overrides.get(key).is_some() { OF_THE_TOPIC } else { DEFAULT },
        name: key.into(),
        value: Some(value.into()),
        ..DescribeConfigsResourceResult::default()
    };
    Ok(described.map(result).collect())
}

/// Every topic-level name and what it says now.
fn values(config: &LogConfig) -> [(&'static str, String); 8] {
    let or_never = |value: Option<String>| value.unwrap_or_else(|| "-1".to_owned());
    let timestamps = match config.timestamp_type {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    };
    [
        ("cleanup.policy", "delete".to_owned()),
        ("compression.type", "producer".to_owned()),
        ("max.message.bytes", config.max_message_bytes.to_string()),
        ("message.timestamp.type", timestamps.to_owned()),
        ("retention.bytes", or_never(config.retention_bytes.map(|bytes| bytes.to_string()))),
        ("retention.ms", or_never(config.retention_ms.map(|ms| ms.to_string()))),
        ("segment.bytes", config.segment_bytes.to_string()),
        ("segment.ms", config.segment_ms.to_string()),
    ]
}

/// Answers an IncrementalAlterConfigs request.
pub(crate) async fn alter(
    worker: &Worker,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let outcome = alter_one(worker, &resource, request.validate_only).await;
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
    worker: &Worker,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), (ErrorCode, String)> {
    if resource.resource_type != TOPIC {
        return Err((ErrorCode::INVALID_REQUEST, "only topics can be configured".to_owned()));
    }
    let refused = |error: ChangeError| (errors::of_change(&error), error.to_string());
    let name = resource.resource_name.to_string();
    let topic = worker.server.topics.get(&name).ok_or_else(|| refused(ChangeError::Unknown))?;
    let overrides =
        altered(topic.overrides(), resource).map_err(|words| (ErrorCode::INVALID_CONFIG, words))?;
    if validate_only {
        return Ok(());
    }
    let server = Arc::clone(&worker.server);
    let change = move || server.topics.reconfigure(&name, overrides);
    match tokio::task::spawn_blocking(change).await {
        Ok(outcome) => outcome.map_err(refused),
        Err(_) => Err((ErrorCode::UNKNOWN_SERVER_ERROR, "the change panicked".to_owned())),
    }
}

fn altered(mut overrides: Overrides, resource: &AlterConfigsResource) -> Result<Overrides, String> {
    for config in &resource.configs {
        match (config.config_operation, &config.value) {
            (SET, Some(value)) => overrides.set(&config.name, value)?,
            (SET, None) | (DELETE, _) => overrides.unset(&config.name),
            (operation, _) => {
                return Err(format!("`{}` is no list: operation {operation}", config.name));
            }
        }
    }
    Ok(overrides)
}
