//! What the kernel tells of a path, by inotify: of the file itself, and of every symbolic link on the way there.
//!
//! Directories are watched rather than files: a file that is replaced is another file. Each link on the way counts, because
//! switching one in a directory far above is how Kubernetes replaces what it mounts.
//!
//! By rustix, which the daemon uses anyhow. Of the crates made for this, `notify` watches trees, on any system, and is under a licence
//! that `deny.toml` does not have.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Links on the way to a file, as the kernel counts them.
const LINKS_MAX: usize = 40;

/// Until this is over without another event, a change is not looked at: replacing a file is several.
const CALM: Duration = Duration::from_millis(20);
/// After this it is looked at, calm or not.
const CALM_ROUNDS_MAX: u32 = 25;

pub(super) struct Lookout {
    path: PathBuf,
    /// `None` where the kernel gives none: then only the interval remains.
    inotify: Option<AsyncFd<OwnedFd>>,
    /// By watch: the names in that directory that the path goes by, and whether that is the file's own.
    watched: BTreeMap<i32, BTreeMap<OsString, bool>>,
    writing: Writing,
}

/// What is known of the file's writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writing {
    /// Nobody was seen.
    Unknown,
    /// The file was modified, and not closed since.
    Going,
    /// It was closed, or put in its place whole.
    Done,
}

impl Lookout {
    pub(super) fn new(path: &Path) -> Self {
        let made = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(std::io::Error::from);
        #[expect(deprecated, reason = "its successor is unsafe for descriptors that can be closed behind it, which an OwnedFd cannot")]
        let inotify = made.and_then(AsyncFd::new).map_err(|error| {
            let path = path.display();
            tracing::warn!(%path, %error, "changes of the file cannot be watched (fs.inotify.max_user_instances?): it is read at intervals");
        });
        Self { path: path.to_owned(), inotify: inotify.ok(), watched: BTreeMap::new(), writing: Writing::Unknown }
    }

    /// One that the kernel tells nothing.
    #[cfg(test)]
    pub(super) fn blind(path: &Path) -> Self {
        Self { path: path.to_owned(), inotify: None, watched: BTreeMap::new(), writing: Writing::Unknown }
    }

    /// Watches all that the path leads over by now.
    pub(super) fn follow(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let mut watched: BTreeMap<i32, BTreeMap<OsString, bool>> = BTreeMap::new();
        for step in steps(&self.path) {
            // One that vanished just now is no loss: the one above it is watched too, or the interval brings another look.
            if let Ok(watch) = inotify::add_watch(inotify, &step.directory, flags) {
                *watched.entry(watch).or_default().entry(step.name).or_default() |= step.is_last;
            }
        }
        for watch in self.watched.keys().filter(|watch| !watched.contains_key(watch)) {
            let _ = inotify::remove_watch(inotify, *watch);
        }
        self.watched = watched;
    }

    pub(super) fn is_being_written(&self) -> bool {
        self.writing == Writing::Going
    }

    /// Whether the file's writer was seen to be done.
    pub(super) fn is_written(&self) -> bool {
        self.writing == Writing::Done
    }

    /// Whether something happened that was not looked at. Does not wait.
    pub(super) fn has_news(&mut self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(inotify, &mut buffer);
        let mut has_news = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    if let Some(writing) = news(&self.watched, event.wd(), event.events(), name) {
                        has_news = true;
                        self.writing = writing.unwrap_or(self.writing);
                    }
                }
                Err(Errno::INTR) => {}
                // Nothing more, or nothing that waiting would mend.
                Err(_) => return has_news,
            }
        }
    }

    /// Waits for a change, and until it is over, at most for `wait`. Yields whether there was one.
    pub(super) async fn changed_within(&mut self, wait: Duration) -> bool {
        tokio::time::timeout(wait, self.changed()).await.is_ok()
    }

    async fn changed(&mut self) {
        loop {
            self.woken().await;
            if self.has_news() {
                break;
            }
        }
        for _ in 0..CALM_ROUNDS_MAX {
            tokio::time::sleep(CALM).await;
            if !self.has_news() {
                return;
            }
        }
    }

    /// Waits until the kernel has something to tell.
    async fn woken(&self) {
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        match inotify.readable().await {
            // What there is is read by `has_news`, to the end; the next wait is for more.
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        }
    }
}

/// Whether an event has to do with the path, and what it says of the file's writer, if anything.
fn news(
    watched: &BTreeMap<i32, BTreeMap<OsString, bool>>,
    watch: i32,
    event: ReadFlags,
    name: Option<&OsStr>,
) -> Option<Option<Writing>> {
    if event.contains(ReadFlags::QUEUE_OVERFLOW) {
        return Some(Some(Writing::Unknown));
    }
    // Without a name it is the directory's own: it has gone.
    let names = watched.get(&watch)?;
    let Some(name) = name else { return Some(None) };
    let is_last = *names.get(name)?;
    let writing = if !is_last || event.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
        // A link that leads elsewhere now leads to a file that nobody was seen to write.
        if is_last { Writing::Done } else { Writing::Unknown }
    } else if event.contains(ReadFlags::MODIFY) {
        Writing::Going
    } else {
        Writing::Unknown
    };
    Some(Some(writing))
}

/// A name that a path goes by, in the directory where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Step {
    directory: PathBuf,
    name: OsString,
    /// The file itself, or what is in its place.
    is_last: bool,
}

/// The places where a change would have the path lead elsewhere: its links, the file, and the first name that is not there.
fn steps(path: &Path) -> Vec<Step> {
    let names = |path: &Path| path.components().map(|part| part.as_os_str().to_owned()).collect::<VecDeque<_>>();
    let mut rest = names(path);
    let (mut at, mut steps, mut n_links) = (PathBuf::from("/"), Vec::new(), 0);
    while let Some(name) = rest.pop_front() {
        match Path::new(&name).components().next() {
            Some(Component::Normal(_)) => {}
            Some(Component::ParentDir) => {
                at.pop();
                continue;
            }
            Some(Component::RootDir) => {
                at = PathBuf::from("/");
                continue;
            }
            _ => continue,
        }
        let here = at.join(&name);
        let step = |is_last| Step { directory: at.clone(), name: name.clone(), is_last };
        match std::fs::symlink_metadata(&here) {
            Ok(found) if found.is_symlink() && n_links < LINKS_MAX => {
                steps.push(step(false));
                n_links += 1;
                let Ok(target) = std::fs::read_link(&here) else { return steps };
                let mut way = names(&target);
                way.append(&mut rest);
                rest = way;
            }
            Ok(_) if rest.is_empty() => steps.push(step(true)),
            Ok(_) => at = here,
            Err(_) => {
                steps.push(step(rest.is_empty()));
                return steps;
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The steps below `root`, as `directory name`, the last one with a full stop.
    fn shown(root: &Path, path: &str) -> Vec<String> {
        let below = |directory: &Path| directory.strip_prefix(root).unwrap_or(directory).display().to_string();
        let end = |step: &Step| if step.is_last { "." } else { "" };
        let steps = steps(&root.join(path));
        // Where temporary directories are may itself go by links.
        let steps = steps.iter().filter(|step| step.directory.starts_with(root));
        steps.map(|step| format!("{} {}{}", below(&step.directory), step.name.display(), end(step))).collect()
    }

    #[test]
    fn a_path_is_watched_wherever_it_could_come_to_lead_elsewhere() {
        let root = std::env::temp_dir().canonicalize().unwrap().join(format!("xlb-steps-{}", std::process::id()));
        std::fs::create_dir_all(root.join("volume/..first")).unwrap();
        std::fs::write(root.join("volume/..first/web.json"), "[]").unwrap();
        symlink("..first", root.join("volume/..data")).unwrap();
        symlink("..data/web.json", root.join("volume/web.json")).unwrap();
        symlink(root.join("volume"), root.join("link")).unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();

        assert_eq!(shown(&root, "volume/..first/web.json"), ["volume/..first web.json."]);
        assert_eq!(shown(&root, "volume/web.json"), ["volume web.json", "volume ..data", "volume/..first web.json."]);
        assert_eq!(
            shown(&root, "link/../volume/web.json"),
            [" link", "volume web.json", "volume ..data", "volume/..first web.json."]
        );
        assert_eq!(shown(&root, "volume/none.json"), ["volume none.json."]);
        assert_eq!(shown(&root, "none/none.json"), [" none"]);
        assert_eq!(shown(&root, "a").len(), LINKS_MAX + 1);
        std::fs::remove_dir_all(root).unwrap();
    }
}
