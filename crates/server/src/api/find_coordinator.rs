//! FindCoordinator: which server coordinates a group. This one coordinates all of them.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 10 | FindCoordinator | 0-4 | 1: transactional ids as keys (KIP-98), 4: several keys in one request (KIP-699) |
//!
//! Not done: coordinators of transactions. A request for one is refused at once, with a code on
//! which producers give up.

use penstock_wire::messages::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};
use penstock_wire::{ErrorCode, Str};

use crate::api::context::RequestContext;
use crate::pace::Pace;

const KEY_IS_A_GROUP: i8 = 0;
const KEY_IS_A_TRANSACTION: i8 = 1;

/// From this version on, a request has several keys (KIP-699).
const KEYS_SINCE: i16 = 4;

const NO_NODE: i32 = -1;

const NO_TRANSACTIONS: &str = "transactions are not supported by this server";

/// Answers a FindCoordinator request. Keys beyond the memory that an answer may take are refused.
pub(crate) async fn find_coordinator(
    context: &RequestContext<'_>,
    api_version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    if request.key_type != KEY_IS_A_GROUP {
        return refuse_all(api_version, request).await;
    }
    let cluster = &context.broker.cluster;
    let mut left_bytes = context.broker.settings.answer_max_bytes;
    let (node_id, (host, port)) = (cluster.node_id, &cluster.advertised);
    let (host, port) = (Str::from(host.as_str()), i32::from(*port));
    let coordinator = |key: Str| {
        let key_bytes = size_of::<Coordinator>() + 2 * key.len() + host.len();
        match left_bytes.checked_sub(key_bytes) {
            Some(left) => {
                left_bytes = left;
                Coordinator { key, node_id, host: host.clone(), port, ..Coordinator::default() }
            }
            None => Coordinator {
                key,
                node_id: NO_NODE,
                port: NO_NODE,
                error_code: ErrorCode::INVALID_REQUEST,
                ..Coordinator::default()
            },
        }
    };
    FindCoordinatorResponse {
        coordinators: of_each(request.coordinator_keys, coordinator).await,
        node_id,
        host: host.clone(),
        port,
        ..FindCoordinatorResponse::default()
    }
}

/// Refuses at once and for good. A producer must not retry for a coordinator that cannot come.
async fn refuse_all(api_version: i16, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let (error_code, words) = match request.key_type {
        // librdkafka gives up at once on this code alone. It asks key by key, and shows the
        // message.
        KEY_IS_A_TRANSACTION if api_version < KEYS_SINCE => {
            (ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, NO_TRANSACTIONS)
        }
        // Java gives up on any code that is not retriable, and shows the message with any but the
        // one above.
        KEY_IS_A_TRANSACTION => (ErrorCode::UNSUPPORTED_VERSION, NO_TRANSACTIONS),
        _ => (ErrorCode::INVALID_REQUEST, "only groups have a coordinator here"),
    };
    let error_message = Some(Str::from_static(words));
    let coordinator = |key| Coordinator {
        key,
        node_id: NO_NODE,
        port: NO_NODE,
        error_code,
        error_message: error_message.clone(),
        ..Coordinator::default()
    };
    FindCoordinatorResponse {
        error_code,
        error_message: error_message.clone(),
        node_id: NO_NODE,
        port: NO_NODE,
        coordinators: of_each(request.coordinator_keys, coordinator).await,
        ..FindCoordinatorResponse::default()
    }
}

/// Makes one entry for each key, letting other connections in between.
async fn of_each(keys: Vec<Str>, mut of: impl FnMut(Str) -> Coordinator) -> Vec<Coordinator> {
    let (mut all, mut pace) = (Vec::with_capacity(keys.len()), Pace::default());
    for key in keys {
        all.push(of(key));
        pace.done(1).await;
    }
    all
}
