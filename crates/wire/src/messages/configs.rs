//! DescribeConfigs (32) and IncrementalAlterConfigs (44).

use crate::schema::schema;
use crate::{ErrorCode, Str};

schema! {
    /// Topics and brokers whose configs to describe.
    DescribeConfigsRequest {
        resources: Vec<DescribeConfigsResource> [0..],
        include_synonyms: bool [1..],
        include_documentation: bool [3..],
    }

    /// One topic or broker.
    DescribeConfigsResource {
        /// 2 topic, 4 broker.
        resource_type: i8 [0..],
        resource_name: Str [0..],
        /// Null means all.
        configuration_keys: Option<Vec<Str>> [0..],
    }

    /// The configs.
    DescribeConfigsResponse {
        throttle_time_ms: i32 [0..],
        results: Vec<DescribeConfigsResult> [0..],
    }

    /// One topic's or broker's.
    DescribeConfigsResult {
        error_code: ErrorCode [0..],
        error_message: Option<Str> [0..],
        resource_type: i8 [0..],
        resource_name: Str [0..],
        configs: Vec<DescribeConfigsResourceResult> [0..],
    }

    /// One config.
    DescribeConfigsResourceResult {
        name: Str [0..],
        value: Option<Str> [0..],
        read_only: bool [0..],
        /// 1 of the topic, 4 of the broker's file, 5 the default.
        config_source: i8 [1..] = -1,
        is_sensitive: bool [0..],
        synonyms: Vec<DescribeConfigsSynonym> [1..],
        /// 1 boolean, 2 string, 3 int, 5 long, 7 list.
        config_type: i8 [3..],
        documentation: Option<Str> [3..],
    }

    /// Another source of the config.
    DescribeConfigsSynonym {
        name: Str [1..],
        value: Option<Str> [1..],
        source: i8 [1..],
    }

    /// Configs to change.
    IncrementalAlterConfigsRequest {
        resources: Vec<AlterConfigsResource> [0..],
        validate_only: bool [0..],
    }

    /// One topic's or broker's.
    AlterConfigsResource {
        resource_type: i8 [0..],
        resource_name: Str [0..],
        configs: Vec<AlterableConfig> [0..],
    }

    /// One config.
    AlterableConfig {
        name: Str [0..],
        /// 0 set, 1 delete, 2 append, 3 subtract.
        config_operation: i8 [0..],
        value: Option<Str> [0..],
    }

    /// The outcomes.
    IncrementalAlterConfigsResponse {
        throttle_time_ms: i32 [0..],
        responses: Vec<AlterConfigsResourceResponse> [0..],
    }

    /// One topic's or broker's.
    AlterConfigsResourceResponse {
        error_code: ErrorCode [0..],
        error_message: Option<Str> [0..],
        resource_type: i8 [0..],
        resource_name: Str [0..],
    }
}
