//! InitProducerId: a producer id for an idempotent producer.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 22 | InitProducerId | 0-4 | 0: KIP-98, 3: producers that come back (KIP-360), 4: PRODUCER_FENCED (KIP-588) |
//!
//! Not done: transactions, which are refused.

use std::sync::Arc;

use penstock_ring::blocking;
use penstock_wire::ErrorCode;
use penstock_wire::messages::{InitProducerIdRequest, InitProducerIdResponse};

use crate::api::context::RequestContext;

/// Answers an InitProducerId request. A producer that comes back gets a new id: without
/// transactions nothing more is needed.
pub(crate) async fn init(
    context: &RequestContext<'_>,
    request: &InitProducerIdRequest,
) -> InitProducerIdResponse {
    const NO_PRODUCER_ID: i64 = -1;
    let refused = |error_code| InitProducerIdResponse {
        error_code,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: -1,
        ..InitProducerIdResponse::default()
    };
    if request.transactional_id.is_some() {
        return refused(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    }
    let broker = Arc::clone(context.broker);
    match blocking::run(move || broker.producer_ids.next()).await {
        Ok(Ok(producer_id)) => InitProducerIdResponse {
            producer_id,
            producer_epoch: 0,
            ..InitProducerIdResponse::default()
        },
        Ok(Err(error)) => {
            tracing::error!(%error, "cannot reserve producer ids");
            refused(ErrorCode::KAFKA_STORAGE_ERROR)
        }
        Err(_) => refused(ErrorCode::UNKNOWN_SERVER_ERROR),
    }
}
