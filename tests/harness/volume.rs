//! A file system of its own for a test: ext4 on a loop device, whose power can be cut and whose
//! disk can shrink; or XFS or btrfs, for what those do otherwise.
//!
//! Needs root and loop devices; a test that cannot have one says so and is over. The programs are
//! those of util-linux, e2fsprogs, xfsprogs and btrfs-progs. The one ioctl(2) has no safe wrapper,
//! and this workspace allows `unsafe` in one file only: perl, which every Debian has, does it.
//!
//! ```text
//!   <dir>/volume.image ──losetup──► /dev/loopN ──mount──► <dir>/volume
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::process::until;
use crate::rounds::say;

/// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: from now on nothing reaches the disk,
/// neither what was written and not synced nor what the journal had not committed (KERNEL.md).
const CUT_POWER: &str = r#"open(my $d, "<", $ARGV[0]) or die "open: $!";
    my $flags = pack("L", 2); ioctl($d, 0x8004587d, $flags) or die "ioctl: $!";"#;

/// A file system on a loop device; unmounted when dropped.
#[derive(Debug)]
pub struct Volume {
    image: PathBuf,
    kind: &'static str,
    mount: Mount,
}

/// A place where something is mounted; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    is_mounted: bool,
}

impl Volume {
    /// Makes one of `len_bytes`, sparse, in `dir`, with these ext4 features besides the usual ones
    /// (`""`: no others). `None`: this machine cannot, which was said.
    ///
    /// # Errors
    /// The machine could, but something failed.
    pub fn make(dir: &Path, len_bytes: u64, features: &str) -> anyhow::Result<Option<Volume>> {
        let make = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", features];
        Volume::make_by(dir, len_bytes, "ext4", &make)
    }

    /// Makes one of another kind, `xfs` or `btrfs`. `None`: this machine cannot, which was said.
    ///
    /// # Errors
    /// As [`Volume::make`].
    pub fn make_as(
        dir: &Path,
        len_bytes: u64,
        kind: &'static str,
    ) -> anyhow::Result<Option<Volume>> {
        let program = format!("mkfs.{kind}");
        if let Err(why) = run(&program, ["-V"]) {
            say(format_args!("SKIPPED: {why:#}"));
            return Ok(None);
        }
        Volume::make_by(dir, len_bytes, kind, &[&program, "-q", "-f"])
    }

    fn make_by(
        dir: &Path,
        len_bytes: u64,
        kind: &'static str,
        make: &[&str],
    ) -> anyhow::Result<Option<Volume>> {
        if let Err(why) = run("losetup", ["--find"]) {
            say(format_args!("SKIPPED: it needs root and a free loop device: {why:#}"));
            return Ok(None);
        }
        let image = dir.join("volume.image");
        std::fs::File::create(&image)?.set_len(len_bytes)?;
        run(make[0], make[1..].iter().copied().chain([path(&image)]))?;
        let mount = Mount::at(&dir.join("volume"))?;
        let mut volume = Volume { image, kind, mount };
        match volume.mount() {
            Ok(()) => Ok(Some(volume)),
            Err(why) => {
                say(format_args!("SKIPPED: it needs to mount a loop device: {why:#}"));
                Ok(None)
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount.point
    }

    /// Mounts it; a journal is replayed. Errors of the disk are answered and not more.
    ///
    /// # Errors
    /// mount(8) says no.
    pub fn mount(&mut self) -> anyhow::Result<()> {
        let options =
            if self.kind == "ext4" { "loop,noatime,errors=continue" } else { "loop,noatime" };
        self.mount.mount(&["-t", self.kind, "-o", options, path(&self.image)])
    }

    /// Unmounts it, once nobody uses it any more.
    ///
    /// # Errors
    /// umount(8) says no.
    pub fn unmount(&mut self) -> anyhow::Result<()> {
        self.mount.unmount()
    }

    /// Cuts its power: what was not synced never reaches the disk. Whoever uses it gets errors.
    ///
    /// # Errors
    /// The file system cannot.
    pub fn cut_power(&self) -> anyhow::Result<()> {
        run("perl", ["-e", CUT_POWER, path(&self.mount.point)])
    }

    /// Takes the end of its disk away: what lies there answers EIO from now on, once it is not
    /// cached.
    ///
    /// # Errors
    /// The image cannot be cut.
    pub fn shrink_to(&self, len_bytes: u64) -> std::io::Result<()> {
        std::fs::File::options().write(true).open(&self.image)?.set_len(len_bytes)
    }
}

impl Mount {
    /// A tmpfs of `len_bytes` at `point`, which is made if it is not there. `None`: this machine
    /// cannot, which was said.
    ///
    /// # Errors
    /// The place cannot be made.
    pub fn tmpfs(point: &Path, len_bytes: u64) -> anyhow::Result<Option<Mount>> {
        let mut mount = Mount::at(point)?;
        let options = format!("size={len_bytes}");
        match mount.mount(&["-t", "tmpfs", "-o", &options, "tmpfs"]) {
            Ok(()) => Ok(Some(mount)),
            Err(why) => {
                say(format_args!("SKIPPED: it needs to mount a tmpfs: {why:#}"));
                Ok(None)
            }
        }
    }

    /// An overlayfs at `point`, which is made if it is not there; its directories are made beside
    /// it. `None`: this machine cannot, which was said.
    ///
    /// # Errors
    /// A place cannot be made.
    pub fn overlay(point: &Path) -> anyhow::Result<Option<Mount>> {
        let mut mount = Mount::at(point)?;
        let [lower, upper, work] =
            ["lower", "upper", "work"].map(|kind| point.with_extension(kind));
        for dir in [&lower, &upper, &work] {
            std::fs::create_dir_all(dir)?;
        }
        let (lower, upper, work) = (path(&lower), path(&upper), path(&work));
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        match mount.mount(&["-t", "overlay", "-o", &options, "overlay"]) {
            Ok(()) => Ok(Some(mount)),
            Err(why) => {
                say(format_args!("SKIPPED: it needs to mount an overlayfs: {why:#}"));
                Ok(None)
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// A directory above it has been renamed.
    pub fn moved_to(&mut self, point: &Path) {
        self.point = point.to_owned();
    }

    fn at(point: &Path) -> anyhow::Result<Mount> {
        std::fs::create_dir_all(point)?;
        Ok(Mount { point: point.to_owned(), is_mounted: false })
    }

    fn mount(&mut self, what: &[&str]) -> anyhow::Result<()> {
        run("mount", what.iter().copied().chain([path(&self.point)]))?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        // What a ring of a killed process had in the kernel ends a moment after the process.
        until("nobody uses the mount", || match run("umount", [path(&self.point)]) {
            Ok(()) => Ok(Some(())),
            Err(busy) if busy.to_string().contains("busy") => Ok(None),
            Err(error) => Err(error),
        })?;
        self.is_mounted = false;
        Ok(())
    }
}

/// A quota on a part of a btrfs.
pub mod limit {
    use super::{Path, PathBuf, path, run};

    /// Makes a subvolume whose use is counted.
    ///
    /// # Errors
    /// btrfs(8) says no.
    pub fn subvolume(mounted: &Path) -> anyhow::Result<PathBuf> {
        let made = mounted.join("limited");
        run("btrfs", ["quota", "enable", path(mounted)])?;
        run("btrfs", ["subvolume", "create", path(&made)])?;
        Ok(made)
    }

    /// Says how much it may take.
    ///
    /// # Errors
    /// btrfs(8) says no.
    pub fn set(subvolume: &Path, bytes: u64) -> anyhow::Result<()> {
        run("btrfs", ["qgroup", "limit", &bytes.to_string(), path(subvolume)])
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily: a test that panics may leave somebody who uses it for another moment.
            let _ = run("umount", ["--lazy", path(&self.point)]);
        }
    }
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    let output = command.args(arguments).output().with_context(|| format!("no {program}"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of a test is UTF-8")
}
