//! What a machine starts with: a RAM disk of programs, what they need, and a script.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;
use super::kernel::Kernel;
use crate::{command, workspace};

/// Lines of the machine's own begin with this.
pub const MARK: &str = "@@";

/// Files of a machine.
pub struct Payload {
    /// Paths within the machine, without the leading slash, and the files.
    files: Vec<(String, Vec<u8>)>,
}

impl Payload {
    /// A shell, and these programs of this machine's.
    ///
    /// # Errors
    /// One is not here.
    pub fn new(programs: &[&str]) -> Result<Self> {
        let mut payload = Self { files: Vec::new() };
        // Statically linked, or the machine would not start at all.
        let busybox = command::find("busybox").context("no busybox; it comes with busybox-static")?;
        payload.add("bin/busybox", &busybox)?;
        for name in programs {
            let path = command::find(name).with_context(|| format!("no program {name}"))?;
            payload.program(&path, name)?;
        }
        Ok(payload)
    }

    /// A file, at a path within the machine.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn add(&mut self, to: &str, from: &Path) -> Result<()> {
        let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.files.push((to.trim_start_matches('/').to_owned(), content));
        Ok(())
    }

    /// A script for dash: busybox's shell takes its own `ip` and others before those of the payload.
    pub fn add_script(&mut self, to: &str, text: &str) {
        self.files.push((to.to_owned(), text.into()));
    }

    /// A program of ours, without debug information, which is nine tenths of it.
    ///
    /// # Errors
    /// As for [`add`](Self::add), or strip fails.
    pub fn own_program(&mut self, path: &Path, name: &str) -> Result<()> {
        let directory = workspace::target()?.join("vm");
        std::fs::create_dir_all(&directory)?;
        let copy = directory.join(name);
        command::output(Command::new("strip").arg("-o").arg(&copy).arg(path))?;
        self.program(&copy, name)
    }

    /// A program with its libraries, where its loader looks for them.
    fn program(&mut self, path: &Path, name: &str) -> Result<()> {
        self.add(&format!("bin/{name}"), path)?;
        // One that is linked statically has none, and ldd fails.
        let libraries = command::output(Command::new("ldd").arg(path)).unwrap_or_default();
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            if !self.files.iter().any(|(path, _)| path == library.trim_start_matches('/')) {
                self.add(library, Path::new(library))?;
            }
        }
        Ok(())
    }
}

/// The payload with modules of a kernel's, as a file that qemu loads. The machine runs the job, a script, and powers itself off.
///
/// # Errors
/// The kernel has no such module, or the file cannot be written.
pub fn ram_disk(kernel: &Kernel, payload: &Payload, names: &[&str], job: &str) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "run", "sys", "tmp"] {
        archive.directory(directory);
    }
    payload.files.iter().for_each(|(path, content)| archive.file(path, content));
    let mut loaded = Vec::new();
    for module in modules(kernel, names)? {
        let name = format!("modules/{}", module.file_stem().unwrap_or_default().to_string_lossy().trim_end_matches(".ko"));
        archive.file(&name, &decompressed(&module)?);
        loaded.push(name);
    }
    archive.file("init", script(&loaded, job).as_bytes());
    let path = kernel.root.with_extension("cpio");
    std::fs::write(&path, archive.finish()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Files of modules, each after those that it needs.
fn modules(kernel: &Kernel, names: &[&str]) -> Result<Vec<PathBuf>> {
    let modprobe = command::find("modprobe").context("no modprobe; it comes with kmod")?;
    let mut files = Vec::new();
    for module in names {
        let mut command = Command::new(&modprobe);
        command.arg("-d").arg(&kernel.root).args(["-S", &kernel.release, "--show-depends", module]);
        let lines = command::output(&mut command)?;
        let needed = lines.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|file| PathBuf::from(file.trim()));
        for file in needed {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

fn decompressed(module: &Path) -> Result<Vec<u8>> {
    let program = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return std::fs::read(module).with_context(|| format!("cannot read {}", module.display())),
    };
    let output = Command::new(program).args(["-dcq"]).arg(module).output().with_context(|| format!("cannot start {program}"))?;
    anyhow::ensure!(output.status.success(), "{program} cannot decompress {}", module.display());
    Ok(output.stdout)
}

/// The machine's first program.
fn script(modules: &[String], job: &str) -> String {
    let load_modules: Vec<String> = modules.iter().map(|module| format!("insmod /{module}")).collect();
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox mkdir -p /sbin /usr/sbin /usr/bin\n\
         export PATH=/bin:/applets\n\
         /bin/busybox mkdir /applets && /bin/busybox --install -s /applets\n\
         mount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\nmount -t tmpfs run /run\n\
         mkdir -p /sys/fs/bpf\nmount -t bpf bpf /sys/fs/bpf\nip link set lo up\n\
         {}\n\
         echo \"{MARK} booted $(uname -r) in $(cut -d' ' -f1 /proc/uptime) s\"\n\
         {job}\n\
         echo \"{MARK} ended $? in $(cut -d' ' -f1 /proc/uptime) s\"\n\
         poweroff -f\n",
        load_modules.join("\n")
    )
}
