//! ApiVersions (18): a client's first request.

use crate::api::SUPPORTED;
use crate::schema::schema;
use crate::{ErrorCode, Label, Str};

schema! {
    /// The client's software.
    ApiVersionsRequest {
        client_software_name: Label [3..],
        client_software_version: Label [3..],
    }

    /// The APIs and their versions.
    ApiVersionsResponse {
        error_code: ErrorCode [0..],
        api_keys: Vec<ApiVersion> [0..],
        throttle_time_ms: i32 [1..],
        supported_features: Vec<SupportedFeatureKey> [3.., tag 0],
        finalized_features_epoch: i64 [3.., tag 1] = -1,
        finalized_features: Vec<FinalizedFeatureKey> [3.., tag 2],
        zk_migration_ready: bool [3.., tag 3],
    }

    /// One API.
    ApiVersion {
        api_key: i16 [0..],
        min_version: i16 [0..],
        max_version: i16 [0..],
    }

    /// One feature (KIP-584).
    SupportedFeatureKey {
        name: Str [3..],
        min_version: i16 [3..],
        max_version: i16 [3..],
    }

    /// One feature in force (KIP-584).
    FinalizedFeatureKey {
        name: Str [3..],
        max_version_level: i16 [3..],
        min_version_level: i16 [3..],
    }
}

impl ApiVersionsResponse {
    /// The table of this crate, with `error_code`.
    pub fn ours(error_code: ErrorCode) -> ApiVersionsResponse {
        let api_keys = SUPPORTED
            .iter()
            .map(|api| ApiVersion {
                api_key: api.key as i16,
                min_version: api.advertised_min_version(),
                max_version: api.max_version,
            })
            .collect();
        ApiVersionsResponse { error_code, api_keys, ..ApiVersionsResponse::default() }
    }
}
