//! The text of a table's cell: a median, with the range of the rounds where there is room.
//!
//! Used by `page` and the modules that write its tables.

use penstock_rig::spread::Spread;

/// The cell of a figure that was not measured.
const NOTHING: &str = "–";

/// The median alone.
pub(crate) fn median(spread: Option<Spread>, words: impl Fn(f64) -> String) -> String {
    spread.map_or(NOTHING.to_owned(), |spread| words(spread.median))
}

/// A ratio with its range.
pub(crate) fn range(spread: Option<Spread>) -> String {
    let words = |Spread { median, min, max }| format!("{median:.2} ({min:.2}–{max:.2})");
    spread.map_or(NOTHING.to_owned(), words)
}

/// A line of a table.
pub(crate) fn row<T: AsRef<str>>(cells: impl IntoIterator<Item = T>) -> String {
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.as_ref().to_owned()).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The head of a table: the line of names, and the line under it.
pub(crate) fn head<T: AsRef<str>>(names: &[T]) -> String {
    row(names) + &format!("|{}\n", "---|".repeat(names.len()))
}
