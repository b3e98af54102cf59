//! Kernels from Debian's archive.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

/// The archive, whose signatures apt checks against the keys that the package of this name installs.
const ARCHIVE: &str = "http://deb.debian.org/debian";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const KEYS_PACKAGE: &str = "debian-archive-keyring";

/// Depends on a suite's kernel for virtual machines, the smallest that has all that is needed.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Where a kernel is to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// What it is called on the command line.
    pub name: &'static str,
    suite: &'static str,
}

/// Each a long-term one but for the last.
const SOURCES: &[Source] = &[
    Source { name: "5.10", suite: "bullseye" },
    Source { name: "6.1", suite: "bookworm" },
    Source { name: "6.12", suite: "bookworm-backports" },
    Source { name: "newest", suite: "trixie-backports" },
];

/// A kernel, taken apart.
pub struct Kernel {
    /// As `uname -r` has it.
    pub release: String,
    pub image: PathBuf,
    /// A directory that holds `lib/modules/<release>`.
    pub root: PathBuf,
}

/// The sources that were asked for, all if none.
///
/// # Errors
/// There is none of such a name.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Source>> {
    if names.is_empty() {
        return Ok(SOURCES.iter().collect());
    }
    let find = |name: &String| {
        let known = || SOURCES.iter().map(|source| source.name).collect::<Vec<_>>().join(", ");
        SOURCES.iter().find(|source| source.name == name).with_context(|| format!("no kernel {name}; there are {}", known()))
    };
    names.iter().map(find).collect()
}

/// Fetches a kernel, unless the newest of its suite is here already. Without a network, what was fetched last will do.
///
/// # Errors
/// apt cannot fetch it, or its package is not built as Debian's are.
pub fn fetch(source: &Source) -> Result<Kernel> {
    let directory = workspace::target()?.join("vm").join(source.suite);
    let apt = Apt::new(&directory)?;
    apt.configure(source.suite)?;
    if let Err(error) = apt.run("apt-get", &["update", "-qq"]) {
        eprintln!("note: {error:#}\nnote: taking the kernel of {} that is here, if there is one", source.suite);
    }
    let packages = apt.packages()?;
    let name = packages.iter().find(|name| name.starts_with("linux-image-")).context("no kernel among the packages")?;
    let root = directory.join(name);
    if !root.exists() {
        unpack(&apt, &packages, &directory, &root)?;
    }
    taken_apart(root)
}

fn unpack(apt: &Apt, packages: &[String], directory: &Path, root: &Path) -> Result<()> {
    // Complete under its name, or not there.
    let (archives, partial) = (directory.join("debs"), directory.join("partial"));
    for leftover in [&archives, &partial] {
        let _ = std::fs::remove_dir_all(leftover);
        std::fs::create_dir_all(leftover)?;
    }
    let arguments: Vec<&str> = ["download", "-qq"].into_iter().chain(packages.iter().map(String::as_str)).collect();
    command::run(apt.command("apt-get").args(arguments).current_dir(&archives))?;
    for archive in archives.read_dir()? {
        command::run(Command::new("dpkg-deb").arg("-x").arg(archive?.path()).arg(&partial))?;
    }
    std::fs::remove_dir_all(&archives)?;
    if !partial.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", partial.join("lib"))?;
    }
    let release = release(&partial)?;
    let depmod = command::find("depmod").context("no depmod; it comes with kmod")?;
    command::run(Command::new(depmod).arg("-b").arg(&partial).arg(&release))?;
    std::fs::rename(&partial, root)?;
    Ok(())
}

fn release(root: &Path) -> Result<String> {
    let mut modules = root.join("lib/modules").read_dir().context("the packages hold no modules")?;
    let directory = modules.next().context("the packages hold no modules")??;
    Ok(directory.file_name().to_string_lossy().into_owned())
}

fn taken_apart(root: PathBuf) -> Result<Kernel> {
    let release = release(&root)?;
    // Some packages have it among the modules.
    let images = [root.join(format!("boot/vmlinuz-{release}")), root.join(format!("lib/modules/{release}/vmlinuz"))];
    let image = images.into_iter().find(|image| image.is_file());
    Ok(Kernel { image: image.with_context(|| format!("the packages of {release} hold no vmlinuz"))?, root, release })
}

/// apt with a configuration, lists and a state of its own: the system's are neither used nor changed.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn new(directory: &Path) -> Result<Self> {
        if !Path::new(KEYS).is_file() {
            bail!("{KEYS} is missing, by which packages are checked; install {KEYS_PACKAGE}");
        }
        Ok(Self { directory: directory.join("apt") })
    }

    fn configure(&self, suite: &str) -> Result<()> {
        for name in ["lists/partial", "cache/archives/partial", "etc/preferences.d"] {
            std::fs::create_dir_all(self.directory.join(name))?;
        }
        let directory = self.directory.display();
        let configuration = format!(
            "Dir::State \"{directory}\";\nDir::State::lists \"{directory}/lists\";\nDir::State::status \"/dev/null\";\n\
             Dir::Cache \"{directory}/cache\";\nDir::Etc \"{directory}/etc\";\nDir::Etc::parts \"/dev/null\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\nDir::Etc::trustedparts \"/dev/null\";\n\
             Acquire::Languages \"none\";\nAPT::Architecture \"amd64\";\n"
        );
        std::fs::write(self.directory.join("apt.conf"), configuration)?;
        let source = format!("deb [arch=amd64 signed-by={KEYS}] {ARCHIVE} {suite} main\n");
        std::fs::write(self.directory.join("etc/sources.list"), source)?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.directory.join("apt.conf"));
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        command::output(self.command(program).args(arguments)).context("is there a network, and is this Debian?")
    }

    /// The kernel's packages: one, or since 7.0 several.
    fn packages(&self) -> Result<Vec<String>> {
        let depends = self.run("apt-cache", &["depends", "--recurse", "--important", META_PACKAGE])?;
        let is_kernel = |name: &&str| {
            let kind = ["linux-image-", "linux-binary-", "linux-modules-"].iter().find_map(|kind| name.strip_prefix(kind));
            kind.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        };
        let mut packages: Vec<String> = depends.lines().map(str::trim).filter(is_kernel).map(ToOwned::to_owned).collect();
        packages.sort();
        packages.dedup();
        if packages.is_empty() {
            bail!("{META_PACKAGE} depends on no kernel:\n{depends}");
        }
        Ok(packages)
    }
}
