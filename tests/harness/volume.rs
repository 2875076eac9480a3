//! A file system for a test: ext4 on a loop device, whose power can be cut and whose disk can
//! shrink, or XFS or btrfs, which behave differently.
//!
//! It needs root and loop devices. A test that cannot have one logs that and ends. The programs are
//! those of util-linux, e2fsprogs, xfsprogs and btrfs-progs. The one ioctl(2) has no safe wrapper,
//! and this workspace allows `unsafe` in one file only, so perl makes it, which every Debian has.
//!
//! ```text
//!   <dir>/volume.image ──losetup──► /dev/loopN ──mount──► <dir>/volume
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::process::until;
use crate::rounds::say;

/// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH. From then on nothing reaches the disk,
/// neither unsynced writes nor uncommitted transactions of the journal (KERNEL.md).
const CUT_POWER: &str = r#"open(my $d, "<", $ARGV[0]) or die "open: $!";
    my $flags = pack("L", 2); ioctl($d, 0x8004587d, $flags) or die "ioctl: $!";"#;

/// A file system on a loop device. Dropping it unmounts the file system.
#[derive(Debug)]
pub struct Volume {
    image: PathBuf,
    kind: &'static str,
    mount: Mount,
}

/// A mount point. Dropping it unmounts the file system.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    is_mounted: bool,
}

impl Volume {
    /// Makes an ext4 of `len_bytes`, sparse, in `dir`, with these features besides the usual ones
    /// (`""`: no others). `None`: the machine cannot, which is logged.
    ///
    /// # Errors
    /// The machine could, but something failed.
    pub fn make(dir: &Path, len_bytes: u64, features: &str) -> anyhow::Result<Option<Volume>> {
        let make = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", features];
        Volume::make_by(dir, len_bytes, "ext4", &make)
    }

    /// Makes an `xfs` or a `btrfs`. `None`: the machine cannot, which is logged.
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

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.mount.point
    }

    /// Mounts the file system, which replays its journal. An error of the disk is returned and has
    /// no other effect.
    ///
    /// # Errors
    /// mount(8) fails.
    pub fn mount(&mut self) -> anyhow::Result<()> {
        let options =
            if self.kind == "ext4" { "loop,noatime,errors=continue" } else { "loop,noatime" };
        self.mount.mount(&["-t", self.kind, "-o", options, path(&self.image)])
    }

    /// Unmounts the file system, once it is no longer in use.
    ///
    /// # Errors
    /// umount(8) fails.
    pub fn unmount(&mut self) -> anyhow::Result<()> {
        self.mount.unmount()
    }

    /// Cuts the power: unsynced bytes never reach the disk, and every use returns an error.
    ///
    /// # Errors
    /// The file system does not support it.
    pub fn cut_power(&self) -> anyhow::Result<()> {
        run("perl", ["-e", CUT_POWER, path(&self.mount.point)])
    }

    /// Takes the end of the disk away. Reads of uncached bytes there fail with EIO from then on.
    ///
    /// # Errors
    /// The image cannot be cut.
    pub fn shrink_to(&self, len_bytes: u64) -> std::io::Result<()> {
        std::fs::File::options().write(true).open(&self.image)?.set_len(len_bytes)
    }
}

impl Mount {
    /// Mounts a tmpfs of `len_bytes` at `point`, which is made if it does not exist. `None`: the
    /// machine cannot, which is logged.
    ///
    /// # Errors
    /// The mount point cannot be made.
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

    /// Mounts an overlayfs at `point`, which is made if it does not exist, with its directories
    /// beside it. `None`: the machine cannot, which is logged.
    ///
    /// # Errors
    /// A directory cannot be made.
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

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// Notes that a directory above the mount point has been renamed.
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
        // Operations of a killed process's ring end a moment after the process.
        until("the mount is not in use", || match run("umount", [path(&self.point)]) {
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
    /// btrfs(8) fails.
    pub fn subvolume(mounted: &Path) -> anyhow::Result<PathBuf> {
        let made = mounted.join("limited");
        run("btrfs", ["quota", "enable", path(mounted)])?;
        run("btrfs", ["subvolume", "create", path(&made)])?;
        Ok(made)
    }

    /// Sets the limit of the subvolume.
    ///
    /// # Errors
    /// btrfs(8) fails.
    pub fn set(subvolume: &Path, bytes: u64) -> anyhow::Result<()> {
        run("btrfs", ["qgroup", "limit", &bytes.to_string(), path(subvolume)])
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_mounted {
            // Unmounted lazily, because a test that panics may leave a process that uses it for a
            // moment.
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
