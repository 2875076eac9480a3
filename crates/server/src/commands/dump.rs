//! `penstock dump`: the batches and records of a segment file, and whether they are sound.
//!
//! Reads one batch at a time and goes on behind damage. Never writes. Fails if anything in the file
//! is not sound.

use std::io::Write;

use anyhow::{Context, bail};
use penstock_batch::BatchHeader;
use penstock_storage::{Damage, SegmentPiece, SegmentReader};

use crate::commands::cli::DumpArguments;

/// The most bytes of a key or value that are shown.
const SHOWN_BYTES: usize = 80;

/// Runs the command.
///
/// # Errors
/// The file cannot be read, or is not sound from its first to its last byte.
pub(crate) fn run(arguments: &DumpArguments) -> anyhow::Result<()> {
    let mut segment = SegmentReader::open(&arguments.file)
        .with_context(|| format!("cannot open {}", arguments.file.display()))?;
    if let Some(magic) = segment.old_magic()? {
        bail!(
            "{} begins with messages of format {magic}, of before Kafka 0.11, which are not shown; kafka-dump-log shows them",
            arguments.file.display()
        );
    }
    let len_bytes = segment.size_bytes();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let (mut batches, mut unsound) = (0u64, 0u64);
    while let Some(piece) = segment.read()? {
        match piece {
            SegmentPiece::Batch { position, bytes } => {
                let sound = show(&mut out, position.0, &bytes, arguments.batches)?;
                unsound += u64::from(!sound);
                batches += 1;
            }
            SegmentPiece::Damage(Damage { position, len_bytes, first, end, .. }) => {
                let what = format!("offsets {first} to before {end}");
                writeln!(out, "position {position} bytes {len_bytes} DAMAGED {what}")?;
                unsound += 1;
            }
            SegmentPiece::End(Damage { position, len_bytes, first, .. }) => {
                let what = format!("to the end; offset {first} would be next");
                writeln!(out, "position {position} bytes {len_bytes} NOT SOUND {what}")?;
                unsound += 1;
            }
        }
    }
    writeln!(out, "{batches} batches, {len_bytes} bytes, {unsound} unsound")?;
    out.flush()?;
    if unsound > 0 {
        bail!("{unsound} ranges or batches are not sound");
    }
    Ok(())
}

/// Prints one batch. Returns whether it is sound.
fn show(
    out: &mut impl Write,
    position: u64,
    batch: &[u8],
    batches_only: bool,
) -> anyhow::Result<bool> {
    let header = BatchHeader::parse(batch)?;
    let crc = penstock_batch::check_crc(batch);
    let codec = header.codec();
    let verdict = match &crc {
        Ok(()) => "sound".to_owned(),
        Err(error) => format!("NOT SOUND: {error}"),
    };
    let codec_name = codec
        .map_or_else(|| "an unknown codec".to_owned(), |codec| format!("{codec:?}").to_lowercase());
    writeln!(
        out,
        "position {position} offsets {}..={} records {} bytes {} codec {codec_name} epoch {} timestamps {}..={} {verdict}",
        header.base_offset,
        header.last_offset(),
        header.record_count,
        batch.len(),
        header.leader_epoch,
        header.base_timestamp,
        header.max_timestamp,
    )?;
    if batches_only || codec != Some(penstock_batch::Codec::None) || header.is_control() {
        return Ok(crc.is_ok());
    }
    for record in penstock_batch::records(batch)? {
        match record {
            Ok(record) => writeln!(
                out,
                "  offset {} timestamp {} key {} value {}",
                record.offset,
                record.timestamp_ms,
                shown(record.key),
                shown(record.value)
            )?,
            Err(error) => {
                writeln!(out, "  NOT SOUND: {error}")?;
                return Ok(false);
            }
        }
    }
    Ok(crc.is_ok())
}

fn shown(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "null".to_owned() };
    let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]);
    let more = if bytes.len() > SHOWN_BYTES { "…" } else { "" };
    format!("{beginning:?}{more}")
}
