//! A RAM disk's format: cpio, "newc", as the kernel's Documentation/driver-api/early-userspace/buffer-format.rst has it.

use std::collections::BTreeSet;
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const ALIGNMENT: usize = 4;

/// Files of a RAM disk that is being made. Directories come by themselves.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    n_entries: u32,
}

impl Archive {
    /// Adds an empty directory. Paths begin at the root, without a slash.
    pub fn directory(&mut self, path: &str) {
        if path.is_empty() || self.directories.contains(path) {
            return;
        }
        self.parent(path);
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY, &[]);
    }

    /// Adds a file that everybody may run.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.parent(path);
        self.entry(path, PROGRAM, content);
    }

    /// The whole.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn parent(&mut self, path: &str) {
        let parent = Path::new(path).parent().and_then(Path::to_str).unwrap_or_default().to_owned();
        self.directory(&parent);
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.n_entries += 1;
        let name_len = path.len() as u32 + 1;
        // Inode, mode, user, group, links, time, length, device, device of a device, length of the name, checksum (unused).
        let fields = [self.n_entries, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name_len, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08X}").bytes()));
        self.bytes.extend(path.bytes().chain([0]));
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_brings_the_directories_above_it_each_once() {
        let mut archive = Archive::default();
        archive.file("a/b/one", b"1");
        archive.file("a/b/two", b"22");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let names: Vec<_> = String::from_utf8_lossy(&bytes)
            .split("070701")
            .skip(1)
            .map(|entry| entry[104..].split('\0').next().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/one", "a/b/two", "TRAILER!!!"]);
    }
}
