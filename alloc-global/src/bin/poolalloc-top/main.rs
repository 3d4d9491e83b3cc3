//! `poolalloc-top`: what a running program does with its memory, in a terminal.
//!
//! ```text
//! poolalloc-top PID             the program's statistics file is found by its process
//! poolalloc-top PATH            or named
//! poolalloc-top --once PID      one frame as text on standard output
//! ```
//!
//! The program must publish (`POOLALLOC_STATS_FILE=1`, or `alloc_global::publish_stats`). It
//! notices that somebody looks, and goes back to sleep two seconds after nobody does. Ends with 2,
//! and one line, where there is nothing to show.
//!
//! `text` turns a frame into words, `view` into panes. No unsafe here.

mod text;
mod view;

use alloc_global::LiveReader;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;
use view::App;

/// How long a single frame is waited for.
const ONCE: Duration = Duration::from_secs(10);

/// How long the view waits for a frame before it looks at the keyboard again.
const FRAME: Duration = Duration::from_millis(250);

const USAGE: &str = "usage: poolalloc-top [--once] PID|PATH";

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("poolalloc-top: {error}");
            ExitCode::from(2)
        }
    }
}

/// Arguments are the system's texts: a path need not be Unicode.
fn run(args: impl Iterator<Item = OsString>) -> Result<(), String> {
    let (mut once, mut target) = (false, None);
    for arg in args {
        let shown = arg.to_string_lossy();
        match shown.as_ref() {
            "--once" => once = true,
            "--help" | "-h" => return print(&format!("{USAGE}\n{}\n", text::KEYS)),
            _ if shown.starts_with('-') => return Err(format!("unknown option {shown}; {USAGE}")),
            _ if target.is_some() => return Err(USAGE.to_owned()),
            _ => target = Some(arg),
        }
    }
    let target = target.ok_or(USAGE)?;
    let reader = match target.to_str().and_then(|pid| pid.parse().ok()) {
        Some(pid) => LiveReader::of_process(pid).map_err(|error| error.to_string())?,
        None => {
            LiveReader::open(&target).map_err(|error| format!("{}: {error}", target.display()))?
        }
    };
    if once {
        let frame = reader.next_frame(ONCE).ok_or("the program does not answer")?;
        return print(&text::page(&frame));
    }
    watch(&reader).map_err(|error| error.to_string())
}

/// Prints, and takes it well if the reader of a pipe is gone.
fn print(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Shows frames until it is told to stop.
fn watch(reader: &LiveReader) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let mut app = App::default();
    let result = loop {
        // A paused view asks for nothing: the program may rest.
        if !app.paused {
            app.take(reader.next_frame(FRAME));
        }
        if let Err(error) = terminal.draw(|frame| view::draw(frame, &app)) {
            break Err(error);
        }
        match keys(&mut app) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    ratatui::try_restore()?;
    result
}

/// Handles what was typed; whether to go on.
fn keys(app: &mut App) -> io::Result<bool> {
    let mut wait = if app.paused { FRAME } else { Duration::ZERO };
    while event::poll(wait)? {
        wait = Duration::ZERO;
        if let Event::Key(key) = event::read()?
            && !handle(app, key)
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Handles a key; whether to go on.
fn handle(app: &mut App, key: KeyEvent) -> bool {
    if key.kind == KeyEventKind::Release {
        return true;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('p' | ' ') => app.paused = !app.paused,
        KeyCode::Down | KeyCode::Char('j') => app.scroll = app.scroll.saturating_add(1),
        KeyCode::Up | KeyCode::Char('k') => app.scroll = app.scroll.saturating_sub(1),
        _ => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn press(app: &mut App, code: KeyCode) -> bool {
        handle(app, KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_pause_scroll_and_end() {
        let mut app = App::default();
        assert!(press(&mut app, KeyCode::Char('p')) && app.paused);
        assert!(press(&mut app, KeyCode::Char(' ')) && !app.paused);
        assert!(press(&mut app, KeyCode::Down) && app.scroll == 1);
        assert!(press(&mut app, KeyCode::Up) && press(&mut app, KeyCode::Up) && app.scroll == 0);
        assert!(press(&mut app, KeyCode::Char('x')));
        assert!(!press(&mut app, KeyCode::Char('q')) && !press(&mut app, KeyCode::Esc));
        assert!(!handle(&mut app, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }

    #[test]
    fn what_cannot_be_shown_is_said() {
        let said = |args: &[&str]| run(args.iter().map(|arg| (*arg).into())).unwrap_err();
        assert_eq!(said(&[]), USAGE);
        assert_eq!(said(&["1", "2"]), USAGE);
        assert_eq!(said(&["--fast"]), format!("unknown option --fast; {USAGE}"));
        assert_eq!(said(&["--once", "4294967295"]), "there is no process 4294967295");
        assert!(said(&["/nowhere/at/all"]).starts_with("/nowhere/at/all: "));
        let name = OsString::from_vec(b"/nowhere/\xFF".to_vec());
        assert!(run([name].into_iter()).unwrap_err().starts_with("/nowhere/\u{FFFD}: "));
        let option = OsString::from_vec(b"-\xFF".to_vec());
        let error = run([option].into_iter()).unwrap_err();
        assert_eq!(error, format!("unknown option -\u{FFFD}; {USAGE}"));
    }
}
