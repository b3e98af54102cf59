//! `xlb top`: what goes on, in the terminal.

mod screen;
mod view;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal;
use tokio::runtime::Runtime;

use super::client::{self, Door};
use view::View;

const PERIOD: Duration = Duration::from_secs(1);
/// Where there is no terminal to ask.
const WIDTH_DEFAULT: u16 = 80;
/// A picture takes memory for each of its places.
const N_ROWS_ONCE: usize = 10_000;
const N_ROWS_A_PAGE: isize = 10;

/// Prints one picture with all rows, as wide as the terminal.
///
/// # Errors
/// No daemon answers.
pub async fn print_once(door: &Door) -> Result<()> {
    let mut view = View::default();
    view.take(client::status(door).await?, Instant::now());
    // A rate takes two moments.
    tokio::time::sleep(PERIOD).await;
    view.take(client::status(door).await?, Instant::now());
    let width = terminal::size().ok().filter(|_| std::io::stdout().is_terminal()).map_or(WIDTH_DEFAULT, |(width, _)| width);
    super::print(&whole(&mut view, width)?)
}

/// A picture that is as high as it has to be, without the keys that nobody can press.
fn whole(view: &mut View, width: u16) -> Result<String> {
    let n_rows = view.services().iter().map(|(_, _, backends)| 1 + backends.len()).sum::<usize>();
    let n_shown = n_rows.min(N_ROWS_ONCE);
    let picture = picture(view, width, screen::N_OTHER_LINES + n_shown as u16)?;
    let mut lines: Vec<&str> = picture.lines().collect();
    lines.pop();
    let mut text = lines.join("\n") + "\n";
    if n_shown < n_rows {
        text += &format!("and {} more; xlb status has all\n", n_rows - n_shown);
    }
    if view.has_set() {
        text += "* set at runtime\n";
    }
    Ok(text)
}

/// The screen as text, without colours and without spaces at the ends of lines.
fn picture(view: &mut View, width: u16, height: u16) -> Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height))?;
    terminal.draw(|frame| screen::draw(frame, view))?;
    let cells = terminal.backend().buffer().content();
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned();
    Ok(cells.chunks(width.into()).map(line).fold(String::new(), |text, line| text + &line + "\n"))
}

/// Shows and follows until the user ends it.
///
/// # Errors
/// There is no terminal, or no daemon answers at first.
pub fn watch(door: &Door) -> Result<()> {
    ensure!(
        std::io::stdout().is_terminal(),
        "xlb top needs a terminal; `xlb top --once` prints one picture, `xlb status` tables"
    );
    let runtime = Runtime::new()?;
    let mut view = View::default();
    view.take(runtime.block_on(client::status(door))?, Instant::now());
    let mut terminal = ratatui::try_init()?;
    let ended = follow(&mut terminal, &runtime, door, &mut view);
    ratatui::try_restore()?;
    ended
}

fn follow(terminal: &mut ratatui::DefaultTerminal, runtime: &Runtime, door: &Door, view: &mut View) -> Result<()> {
    let mut due = Instant::now() + PERIOD;
    loop {
        terminal.draw(|frame| screen::draw(frame, view))?;
        if event::poll(due.saturating_duration_since(Instant::now()))? {
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
            {
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                    KeyCode::Char('s') => view.sort_by_next(),
                    KeyCode::Up => view.move_by(-1),
                    KeyCode::Down => view.move_by(1),
                    KeyCode::PageUp => view.move_by(-N_ROWS_A_PAGE),
                    KeyCode::PageDown => view.move_by(N_ROWS_A_PAGE),
                    _ => {}
                }
            }
            continue;
        }
        match runtime.block_on(client::status(door)) {
            Ok(status) => view.take(status, Instant::now()),
            Err(error) => view.lose(&error),
        }
        due = Instant::now() + PERIOD;
    }
}

#[cfg(test)]
mod tests;
