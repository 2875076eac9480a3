//! `penstock dump`: the batches and records of a segment file, and whether they are sound.
//!
//! Reads one batch at a time; never writes. Fails when something in the file is not sound.

use std::fs::File;
use std::io::{BufReader, Read, Write};

use anyhow::{Context, bail};
use penstock_batch::{BatchHeader, HEADER_LEN};

use crate::cli::DumpArguments;

/// Keys and values are shown up to so many bytes.
const SHOWN_BYTES: usize = 80;

/// Runs the command.
///
/// # Errors
/// The file cannot be read, or is not sound from its first to its last byte.
pub(crate) fn run(arguments: &DumpArguments) -> anyhow::Result<()> {
    let file = File::open(&arguments.file)
        .with_context(|| format!("cannot open {}", arguments.file.display()))?;
    let len_bytes = file.metadata()?.len();
    let mut input = BufReader::with_capacity(1 << 20, file);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let (mut position, mut batches, mut unsound) = (0, 0u64, 0u64);
    while position < len_bytes {
        let batch = match read_batch(&mut input, len_bytes - position) {
            Ok(batch) => batch,
            Err(error) => {
                out.flush()?;
                bail!(
                    "position {position}: {error:#}; {} bytes from there on",
                    len_bytes - position
                );
            }
        };
        let sound = show(&mut out, position, &batch, arguments.batches)?;
        unsound += u64::from(!sound);
        batches += 1;
        position += batch.len() as u64;
    }
    writeln!(out, "{batches} batches, {len_bytes} bytes, {unsound} unsound")?;
    out.flush()?;
    if unsound > 0 {
        bail!("{unsound} of {batches} batches are not sound");
    }
    Ok(())
}

fn read_batch(input: &mut impl Read, left_bytes: u64) -> anyhow::Result<Vec<u8>> {
    let mut batch = vec![0; HEADER_LEN.min(left_bytes as usize)];
    input.read_exact(&mut batch)?;
    let header = BatchHeader::parse(&batch)?;
    if header.len_bytes() as u64 > left_bytes {
        bail!("a batch of {} bytes in the last {left_bytes} bytes", header.len_bytes());
    }
    batch.resize(header.len_bytes(), 0);
    input.read_exact(&mut batch[HEADER_LEN..])?;
    Ok(batch)
}

/// Shows one batch; says whether it is sound.
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
