//! InitProducerId: a producer id for an idempotent producer (KIP-98). Transactions are refused.

use std::sync::Arc;

use penstock_ring::blocking;
use penstock_wire::ErrorCode;
use penstock_wire::messages::{InitProducerIdRequest, InitProducerIdResponse};

use crate::api::context::RequestContext;

/// Answers an InitProducerId request. A producer that comes back gets a new number: without
/// transactions nothing else is asked of it.
pub(crate) async fn init(
    context: &RequestContext<'_>,
    request: &InitProducerIdRequest,
) -> InitProducerIdResponse {
    const NOBODY: i64 = -1;
    let refused = |error_code| InitProducerIdResponse {
        error_code,
        producer_id: NOBODY,
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
