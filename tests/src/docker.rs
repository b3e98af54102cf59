//! A real Docker daemon in a namespace, with containers of our own backend.
//!
//! It has process and mount namespaces of its own: whatever becomes of the test, nothing of it stays.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{Netns, Process, paths, until};

const START_LIMIT: Duration = Duration::from_secs(60);
/// What the image is called.
pub const IMAGE: &str = "xlb-test-backend";

/// A running dockerd, without rules in the firewall. Dropping it kills it and all containers.
#[derive(Debug)]
pub struct Dockerd {
    process: Process,
    directory: tempfile::TempDir,
}

impl Dockerd {
    /// Starts the daemon in the namespace, where bridges of its networks will be too, and gives it the image.
    ///
    /// # Errors
    /// Docker is not installed, or does not start within a minute; the error holds its log.
    pub fn start(netns: &Netns) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let mut command = netns.command("unshare");
        command
            .args(["--pid", "--mount", "--mount-proc", "--fork", "--kill-child", "--", "dockerd", "--log-level=warn"])
            // Of the rules for forwarding that it would make, none is wanted, and some would be in the way.
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"])
            .arg("--exec-opt=native.cgroupdriver=cgroupfs")
            .arg(format!("--cgroup-parent=/{}", cgroup(directory.path())))
            .args([format!("--data-root={}", at("data").display()), format!("--exec-root={}", at("exec").display())])
            .args([format!("--pidfile={}", at("pid").display()), format!("--host=unix://{}", at("docker.sock").display())]);
        let process = Process::start("dockerd", &mut command)?;
        let mut daemon = Self { process, directory };
        let ready = until(START_LIMIT, "dockerd to answer", || {
            if !daemon.process.is_running() {
                return Ok(Some(false));
            }
            Ok(daemon.docker(&["version"]).is_ok().then_some(true))
        });
        ensure!(ready.with_context(|| daemon.process.log())?, "dockerd ended:\n{}", daemon.process.log());
        daemon.import()?;
        Ok(daemon)
    }

    /// What it listens on.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// Runs `docker` with these arguments; yields what it printed.
    ///
    /// # Errors
    /// It fails; the error holds what it complained of.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        self.run(Command::new("docker").args(arguments))
    }

    /// Runs `docker-compose` for a file with this text.
    ///
    /// # Errors
    /// As [`Dockerd::docker`].
    pub fn compose(&self, text: &str, arguments: &[&str]) -> Result<String> {
        let file = self.directory.path().join("compose.yml");
        std::fs::write(&file, text)?;
        self.run(Command::new("docker-compose").arg("--project-name=xlb").arg("--file").arg(file).args(arguments))
    }

    /// The daemon's log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        let socket = format!("unix://{}", self.socket().display());
        let output = command.env("DOCKER_HOST", socket).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot start {:?}", command.get_program()))?;
        if !output.status.success() {
            bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// An image of our backend, a shell and `ethtool`, with the libraries that they load: no registry is asked.
    fn import(&self) -> Result<()> {
        let root = self.directory.path().join("root");
        let programs = [find("sh")?, find("ethtool")?, paths::test_backend()?];
        for program in &programs {
            let name = program.file_name().context("a program has a name")?;
            copy(program, &root.join("bin").join(name))?;
            for library in libraries(program)? {
                copy(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
            }
        }
        let archive = self.directory.path().join("root.tar");
        let mut tar = Command::new("tar");
        tar.arg("--create").arg("--file").arg(&archive).arg("--directory").arg(&root).arg(".");
        self.run(&mut tar)?;
        self.docker(&["import", &archive.display().to_string(), IMAGE]).map(drop)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.process.kill();
        // The containers' processes are being killed with the daemon's namespace.
        let name = cgroup(self.directory.path());
        let _ = until(Duration::from_secs(5), "control groups to be empty", || Ok(remove_groups(&name).then_some(())));
    }
}

/// Whether nothing is left of a parent of control groups, in any hierarchy.
fn remove_groups(name: &str) -> bool {
    const ROOT: &str = "/sys/fs/cgroup";
    let below = |path: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mut is_gone = true;
    // Version 2 has its one hierarchy at the root.
    for hierarchy in below(Path::new(ROOT)).into_iter().chain([ROOT.into()]) {
        let group = hierarchy.join(name);
        for container in below(&group).into_iter().filter(|path| path.is_dir()) {
            let _ = std::fs::remove_dir(container);
        }
        let _ = std::fs::remove_dir(&group);
        is_gone &= !group.exists();
    }
    is_gone
}

/// The parent of its containers' control groups, named after its directory.
fn cgroup(directory: &Path) -> String {
    let name = directory.file_name().map(|name| name.to_string_lossy().trim_start_matches('.').to_owned());
    format!("xlb-test-{}", name.unwrap_or_default())
}

fn find(program: &str) -> Result<PathBuf> {
    let directories = ["/bin", "/sbin", "/usr/bin", "/usr/sbin"].map(Path::new);
    let found = directories.iter().map(|directory| directory.join(program)).find(|path| path.is_file());
    found.with_context(|| format!("{program} is not installed"))
}

/// All shared libraries of a program, its loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(text.lines().filter_map(path).collect())
}

/// With what symbolic links lead to in their place.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to.parent().context("a file in a directory")?)?;
    std::fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}
