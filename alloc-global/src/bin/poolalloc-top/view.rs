//! The panes of the view.
//!
//! ```text
//! +- poolalloc-top: process 4711 ---------------+- live bytes, 1.2 GiB at most ---+
//! | live 800 MiB in 9,000,000 blocks, ...       | sparkline                      |
//! +- size classes ------------------------------+- arenas ------------------------+
//! | size  pools   live  cached ######+...       | 7f00aa000000 #999*5..____       |
//! +- settings ----------------------------------+---------------------------------+
//! | keys                                                                          |
//! ```
//!
//! It draws what [`App`] holds and reads nothing. No unsafe here.

use crate::text;
use alloc_global::LiveFrame;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Paragraph, Sparkline};
use std::collections::VecDeque;

/// Frames that the sparkline remembers.
const HISTORY: usize = 512;

/// Milliseconds between two reckonings of the rate.
const RATE_MS: u64 = 1_000;

/// What is shown.
#[derive(Debug, Default)]
pub(crate) struct App {
    frame: Option<LiveFrame>,
    /// Live bytes of the frames so far, the newest first.
    history: VecDeque<u64>,
    /// Allocations per second, over a second or more.
    rate: u64,
    /// The time and the allocations that the rate was last reckoned from.
    reckoned: (u64, u64),
    /// Whether the program did not answer the last time.
    silent: bool,
    pub(crate) paused: bool,
    /// Lines that the lists are scrolled by.
    pub(crate) scroll: u16,
}

impl App {
    /// Takes a new frame, or notes that there was none.
    pub(crate) fn take(&mut self, frame: Option<LiveFrame>) {
        self.silent = frame.is_none();
        let Some(frame) = frame else { return };
        let (ms, allocs) = (frame.updated_ms, frame.stat("allocs"));
        let time = ms.saturating_sub(self.reckoned.0);
        if self.frame.is_none() {
            self.reckoned = (ms, allocs);
        } else if time >= RATE_MS {
            self.rate = allocs.saturating_sub(self.reckoned.1).saturating_mul(1000) / time;
            self.reckoned = (ms, allocs);
        }
        self.history.truncate(HISTORY - 1);
        self.history.push_front(frame.stat("live bytes"));
        self.frame = Some(frame);
    }

    fn state(&self) -> &'static str {
        match (self.paused, self.silent) {
            (true, _) => " (paused)",
            (false, true) => " (no answer)",
            (false, false) => "",
        }
    }
}

/// Draws everything.
pub(crate) fn draw(to: &mut Frame<'_>, app: &App) {
    let rows =
        [Constraint::Length(8), Constraint::Min(4), Constraint::Length(6), Constraint::Length(1)];
    let [top, middle, low, keys] = Layout::vertical(rows).areas(to.area());
    let Some(frame) = &app.frame else {
        to.render_widget(Paragraph::new(format!("waiting for the program{}", app.state())), top);
        return;
    };
    let halves = [Constraint::Percentage(45), Constraint::Percentage(55)];
    let [left, right] = Layout::horizontal(halves).areas(top);
    let title = format!(" poolalloc-top: process {}{} ", frame.pid, app.state());
    to.render_widget(pane(&title, summary(frame, app.rate)), left);
    draw_history(to, app, right);
    let [left, right] =
        Layout::horizontal([Constraint::Length(64), Constraint::Min(20)]).areas(middle);
    let mut lines = vec![Line::styled(text::CLASS_HEAD, Style::new().fg(Color::DarkGray))];
    let classes = text::classes(frame);
    let skipped = usize::from(app.scroll).min(classes.len().saturating_sub(1));
    lines.extend(classes.into_iter().skip(skipped).map(Line::raw));
    to.render_widget(pane(" size classes ", Text::from(lines)), left);
    let mut lines = vec![Line::styled(text::LEGEND, Style::new().fg(Color::DarkGray))];
    let arenas = text::arenas(frame);
    let skipped = usize::from(app.scroll).min(arenas.len().saturating_sub(1));
    lines.extend(arenas.iter().skip(skipped).map(|line| coloured(line)));
    to.render_widget(pane(&format!(" {} arenas ", frame.arenas), Text::from(lines)), right);
    to.render_widget(pane(" settings ", Text::from(text::settings(frame).join("\n"))), low);
    to.render_widget(Paragraph::new(text::KEYS), keys);
}

fn pane<'a>(title: &str, text: impl Into<Text<'a>>) -> Paragraph<'a> {
    Paragraph::new(text).block(Block::bordered().title(title.to_owned()))
}

/// The figures that matter first.
fn summary(frame: &LiveFrame, rate: u64) -> Text<'static> {
    let stat = |name| frame.stat(name);
    let size = |name| text::bytes(frame.stat(name));
    let lines = [
        format!("live {} in {} blocks", size("live bytes"), stat("live blocks")),
        format!("peak {}   {rate} allocations/s", size("peak live bytes")),
        format!("arenas {}, {} at peak", stat("arenas"), stat("peak arenas")),
        format!("mapped {}, {} free", size("mapped bytes"), size("free bytes")),
        format!("fallback {}", size("fallback live bytes")),
        format!("  cached {}, {} threads", size("fallback cached bytes"), stat("threads")),
    ];
    Text::from(lines.map(Line::from).to_vec())
}

fn draw_history(to: &mut Frame<'_>, app: &App, area: Rect) {
    let most = app.history.iter().copied().max().unwrap_or(0);
    let title = format!(" live bytes, {} at most ", text::bytes(most));
    let width = usize::from(area.width.saturating_sub(2));
    let shown = app.history.iter().take(width).rev().copied();
    let style = Style::new().fg(Color::Green);
    let line = Sparkline::default().data(shown).style(style).block(Block::bordered().title(title));
    to.render_widget(line, area);
}

/// An arena's line with its pools in colours: by how full they are.
fn coloured(line: &str) -> Line<'static> {
    let Some((start, pools)) = line.rsplit_once(' ') else { return Line::raw(line.to_owned()) };
    let mut spans = vec![Span::raw(format!("{start} "))];
    for run in pools.as_bytes().chunk_by(|a, b| colour(*a) == colour(*b)) {
        let text = String::from_utf8_lossy(run).into_owned();
        spans.push(Span::styled(
            text,
            Style::new().fg(colour(run.first().copied().unwrap_or(b'?'))),
        ));
    }
    Line::from(spans)
}

fn colour(symbol: u8) -> Color {
    match symbol {
        b'#' => Color::Blue,
        b'.' | b'_' => Color::DarkGray,
        b'0'..=b'2' => Color::Red,
        b'3'..=b'7' => Color::Yellow,
        _ => Color::Green,
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
