//! What a machine starts with: a RAM disk of the test program, what that needs, and a script that runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;
use super::kernel::Kernel;
use crate::{command, ebpf, workspace};

/// The test program, of the package `xlb-tests`.
const TEST: &str = "path_kernel";
/// What it calls.
const PROGRAMS: &[&str] = &["ip", "ethtool", "sysctl"];
/// What it takes of the kernel beyond what is built in.
const MODULES: &[&str] = &["veth"];

/// What an emulated processor may take to load the program, in milliseconds: about twenty times as long as a real one.
const LOAD_MS_MAX: u32 = 60_000;

/// Lines of the machine's own begin with this.
pub const MARK: &str = "@@";

/// The same for all kernels.
pub struct Payload {
    /// Paths within the machine, without the leading slash, and the files.
    files: Vec<(String, Vec<u8>)>,
}

impl Payload {
    /// Builds the test program.
    ///
    /// # Errors
    /// It does not compile, or a program that it calls is missing here.
    pub fn build() -> Result<Self> {
        let test = stripped(&build_test()?)?;
        let mut payload = Self { files: Vec::new() };
        payload.program(&test, TEST)?;
        for name in PROGRAMS {
            let path = command::find(name).with_context(|| format!("no program {name}; run: cargo xtask vm, as root"))?;
            payload.program(&path, name)?;
        }
        // Statically linked, or the machine would not start at all.
        let busybox = command::find("busybox").context("no busybox; it comes with busybox-static")?;
        payload.add("bin/busybox", &busybox)?;
        payload.add("xlb-ebpf.o", &ebpf::path(ebpf::Object::Xlb)?)?;
        Ok(payload)
    }

    fn add(&mut self, to: &str, from: &Path) -> Result<()> {
        let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.files.push((to.trim_start_matches('/').to_owned(), content));
        Ok(())
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

fn build_test() -> Result<PathBuf> {
    let messages = command::output(command::cargo().current_dir(workspace::root()).args([
        "test",
        "--no-run",
        "--package",
        "xlb-tests",
        "--test",
        TEST,
        "--message-format=json",
    ]))?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let executables = messages.filter(|message| message["target"]["name"] == TEST);
    let executable = executables.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    executable.context("cargo test --no-run names no program")
}

/// A copy without debug information, a tenth of the size.
fn stripped(program: &Path) -> Result<PathBuf> {
    let directory = workspace::target()?.join("vm");
    std::fs::create_dir_all(&directory)?;
    let copy = directory.join(TEST);
    command::output(Command::new("strip").arg("-o").arg(&copy).arg(program))?;
    Ok(copy)
}

/// The payload with a kernel's modules, as a file that qemu loads.
///
/// # Errors
/// The kernel has no such module, or the file cannot be written.
pub fn ram_disk(kernel: &Kernel, payload: &Payload) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "run", "sys", "tmp"] {
        archive.directory(directory);
    }
    payload.files.iter().for_each(|(path, content)| archive.file(path, content));
    let mut names = Vec::new();
    for module in modules(kernel)? {
        let name = format!("modules/{}", module.file_stem().unwrap_or_default().to_string_lossy().trim_end_matches(".ko"));
        archive.file(&name, &decompressed(&module)?);
        names.push(name);
    }
    archive.file("init", script(&names).as_bytes());
    let path = kernel.root.with_extension("cpio");
    std::fs::write(&path, archive.finish()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Files of modules, each after those that it needs.
fn modules(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let modprobe = command::find("modprobe").context("no modprobe; it comes with kmod")?;
    let mut files = Vec::new();
    for module in MODULES {
        let mut command = Command::new(&modprobe);
        command.arg("-d").arg(&kernel.root).args(["-S", &kernel.release, "--show-depends", module]);
        let lines = command::output(&mut command)?;
        files.extend(lines.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|file| PathBuf::from(file.trim())));
    }
    files.dedup();
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
fn script(modules: &[String]) -> String {
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
         export XLB_OBJECT=/xlb-ebpf.o XLB_LOAD_MS_MAX={LOAD_MS_MAX} RUST_BACKTRACE=0\n\
         /bin/{TEST} --include-ignored --test-threads=1\n\
         echo \"{MARK} ended $? in $(cut -d' ' -f1 /proc/uptime) s\"\n\
         poweroff -f\n",
        load_modules.join("\n")
    )
}
