//! The live view: a few lines on the terminal, redrawn in place. What is logged meanwhile scrolls by above it.

use std::{
    fmt::Write as _,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crossterm::{cursor, queue, terminal};
use tokio::task::JoinHandle;

use crate::{
    checkpoints::{bytes, time},
    overview::{Overview, Report},
};

const EVERY: Duration = Duration::from_millis(500);
/// How many columns a row of the view takes beside the node's name.
const BESIDE_NAMES: usize = 61;
/// What is left for names at the least.
const SHORTEST_NAMES: usize = 12;

/// How many lines of the view stand on the terminal, right above the cursor.
static DRAWN: Mutex<u16> = Mutex::new(0);

/// A running view.
pub struct View(JoinHandle<()>);

/// Shows the pipeline until it ends.
pub fn show(overview: Arc<Overview>) -> View {
    let task = tokio::spawn(async move {
        let mut before: Option<Report> = None;
        loop {
            let report = overview.report();
            draw(|width| text(&report, before.as_ref(), width));
            before = Some(report);
            tokio::time::sleep(EVERY).await;
        }
    });
    View(task)
}

impl View {
    /// Ends the view; its last picture stays.
    pub fn end(self) {
        self.0.abort();
        *DRAWN.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }
}

/// Standard error for everything but the view: what is written takes the view's place, which is drawn anew below it.
#[derive(Clone, Copy, Debug)]
pub struct AboveView;

impl Write for AboveView {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut drawn = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = io::stderr().lock();
        erase(&mut out, std::mem::take(&mut *drawn))?;
        out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn erase(out: &mut impl Write, lines: u16) -> io::Result<()> {
    if lines > 0 {
        queue!(out, cursor::MoveToPreviousLine(lines), terminal::Clear(terminal::ClearType::FromCursorDown))?;
    }
    Ok(())
}

/// The width and height to draw in. A terminal that nobody told its size, on a serial line say, has 0 of each.
fn usable(size: io::Result<(u16, u16)>) -> (u16, u16) {
    match size {
        Ok((width, height)) if width > 0 && height > 0 => (width, height),
        _ => (80, 24),
    }
}

/// Draws over what was drawn before; `text` is given the terminal's width.
fn draw(text: impl FnOnce(usize) -> String) {
    let mut lines = DRAWN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = io::stderr().lock();
    let drawn = (|| -> io::Result<u16> {
        let (width, height) = usable(terminal::size());
        erase(&mut out, *lines)?;
        let mut count = 0;
        for line in text(usize::from(width)).lines().take(usize::from(height.saturating_sub(1))) {
            let cut: String = line.chars().take(usize::from(width)).collect();
            writeln!(out, "{cut}")?;
            count += 1;
        }
        out.flush()?;
        Ok(count)
    })();
    // A terminal that is gone is no reason to stop.
    *lines = drawn.unwrap_or(0);
}

/// The view on a terminal of so many columns. Names of nodes are cut short before anything else is.
fn text(report: &Report, before: Option<&Report>, columns: usize) -> String {
    let longest = report.nodes.iter().map(|node| node.name.chars().count()).max().unwrap_or(0);
    let width = longest.min(columns.saturating_sub(BESIDE_NAMES)).max(SHORTEST_NAMES);
    let mut text = String::new();
    let state = &report.state;
    let revision = state.revision.as_ref().map_or("-", |revision| revision.short());
    let _ = writeln!(text, "{}  {:?}  revision {revision}", report.name, state.phase);
    let checkpoint = state.checkpoint.as_ref().map_or_else(
        || "none yet".to_owned(),
        |checkpoint| {
            let age = report.now.saturating_sub(checkpoint.completed_at.0) / 1000;
            let (ms, size) = (checkpoint.duration.as_millis(), bytes(checkpoint.size_bytes));
            format!("{} ({age} s ago, took {ms} ms, {size})", checkpoint.epoch)
        },
    );
    let _ =
        writeln!(text, "checkpoint {checkpoint}, {} failed, {} restarts", report.checkpoints_failed, report.restarts);
    let _ = writeln!(text, "{:<width$} {:>7} {:>7} {:>11} {:>10}  WATERMARK", "NODE", "IN/S", "OUT/S", "LAG", "STATE");
    for (index, node) in report.nodes.iter().enumerate() {
        let old = before.and_then(|before| before.nodes.get(index)).filter(|old| old.name == node.name);
        let seconds = before.map_or(1.0, |before| (report.now.saturating_sub(before.now)).max(1) as f64 / 1e3);
        let rate = |now: u64, was: Option<u64>| was.map_or(0.0, |was| now.saturating_sub(was) as f64 / seconds);
        let _ = writeln!(
            text,
            "{:<width$} {:>7} {:>7} {:>11} {:>10}  {}",
            fitted(&node.name, width),
            short(rate(node.rows_in, old.map(|old| old.rows_in))),
            short(rate(node.rows_out, old.map(|old| old.rows_out))),
            lag(node.lag_bytes, node.lag_rows),
            node.state_bytes.map_or_else(|| "-".to_owned(), bytes),
            node.watermark.and_then(|ms| u64::try_from(ms).ok()).map_or_else(|| "-".to_owned(), time),
        );
    }
    if let Some(error) = &state.last_error {
        let _ = writeln!(text, "last error: {error}");
    }
    text
}

/// A name that is cut short if it is too long.
fn fitted(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_owned();
    }
    name.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// What is unread, in a few letters.
pub fn lag(in_bytes: Option<u64>, in_rows: Option<u64>) -> String {
    match (in_bytes, in_rows) {
        (Some(unread), _) => bytes(unread),
        (None, Some(unread)) => format!("{} rows", short(unread as f64)),
        (None, None) => "-".to_owned(),
    }
}

/// A number with at most four digits and a unit.
pub fn short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1}G", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e4 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_view_fits_a_terminal_of_eighty_columns_up_to_its_watermark() {
        let row = |name: &str, width: usize| {
            let lag = lag(None, Some(999_900));
            let (rate, state) = (short(999.9e6), bytes((1 << 30) - 1));
            format!(
                "{:<width$} {rate:>7} {rate:>7} {lag:>11} {state:>10}  {}",
                fitted(name, width),
                time(1_704_067_200_000)
            )
        };
        let row = row("requests-per-minute-and-path->lake", 80 - BESIDE_NAMES);
        assert!(row.starts_with("requests-per-minut… "), "{row}");
        assert!(row.chars().count() == 80 && row.ends_with("2024-01-01T00:00:00Z"), "{row}");
    }

    #[test]
    fn a_terminal_without_a_size_is_taken_for_a_common_one() {
        assert_eq!(usable(Ok((120, 40))), (120, 40));
        assert_eq!(usable(Ok((0, 0))), (80, 24));
        assert_eq!(usable(Err(io::ErrorKind::Unsupported.into())), (80, 24));
    }
}
