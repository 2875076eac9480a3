//! Checks compressed records before they are appended (`penstock.verify.compressed`): they must
//! decompress, and then pass the checks of uncompressed ones.
//!
//! Called by produce. A batch that cannot be read stops its consumers for ever; without this
//! setting only its first bytes are checked. The price is the codec's time for the whole batch, on
//! a thread that may block, and memory for the decompressed bytes. Both are bounded: few batches at
//! once, each of a bounded size.

use penstock_ring::blocking;
use penstock_storage::{ProduceError, ProducedBatch, Terms};
use tokio::sync::Semaphore;

use crate::broker::decompress::{DecompressError, decompressed};

/// So many batches are decompressed at once; the others wait.
const AT_ONCE_MAX: usize = 4;

/// What any batch may decompress to. Producers fill batches by an estimate of the compression.
const PLAIN_BYTES_ALLOWED: usize = 16 << 20;
/// A larger batch may decompress to so many times its size.
const RATIO_ALLOWED: usize = 64;

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE_MAX);

/// Why a batch's records are not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error("the records cannot be decompressed: {0}")]
    Decompress(#[from] DecompressError),
    #[error(transparent)]
    Records(#[from] ProduceError),
    #[error("the verification of the records was given up")]
    GivenUp,
}

/// Decompresses the batch's records and checks them.
pub(crate) async fn verified(
    batch: ProducedBatch,
    terms: Terms,
) -> Result<ProducedBatch, VerifyError> {
    let _turn = TURNS.acquire().await.map_err(|_| VerifyError::GivenUp)?;
    let verifying = blocking::run(move || verify(batch, &terms));
    verifying.await.map_err(|_| VerifyError::GivenUp)?
}

fn verify(mut batch: ProducedBatch, terms: &Terms) -> Result<ProducedBatch, VerifyError> {
    if let Some((codec, body)) = batch.compressed() {
        let records = decompressed(codec, &body, allowed_bytes(body.len()))?;
        batch.check_decompressed(&records, terms)?;
    }
    Ok(batch)
}

fn allowed_bytes(len_bytes: usize) -> usize {
    len_bytes.saturating_mul(RATIO_ALLOWED).max(PLAIN_BYTES_ALLOWED)
}
