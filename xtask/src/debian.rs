//! Root file systems of Debian, made with debootstrap from the mirror that apt is configured for.

use crate::Result;
use crate::e2e::process;
use std::path::Path;
use std::process::Command;

/// Releases, the oldest first. Mirrors drop old ones over the years.
pub(crate) const RELEASES: &[&str] = &["jessie", "stretch", "buster", "bullseye", "bookworm"];

/// Names another mirror than the one of apt.
const MIRROR: &str = "CARRETO_E2E_DEBIAN";

/// The address of the mirror.
pub(crate) fn mirror() -> Result<String> {
    if let Some(named) = std::env::var(MIRROR).ok().filter(|text| !text.is_empty()) {
        return Ok(named);
    }
    let format = ["indextargets", "--format", "$(LABEL) $(SITE)", "Created-By: Packages"];
    let printed = process::succeed(Command::new("apt-get").args(format))?;
    let found = main_archive(&printed).map(str::to_owned);
    found.ok_or_else(|| format!("apt knows no mirror of Debian: set {MIRROR}").into())
}

/// The first site whose label is that of the main archive alone.
fn main_archive(printed: &str) -> Option<&str> {
    let mut pairs = printed.lines().filter_map(|line| line.rsplit_once(' '));
    pairs.find(|(label, _)| *label == "Debian").map(|(_, site)| site)
}

/// What a mirror has of [`RELEASES`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) mirror: String,
    /// The oldest first.
    pub(crate) there: &'static [&'static str],
    pub(crate) gone: &'static [&'static str],
}

impl Served {
    /// Asks the mirror for one release after the other until it has one: it has the younger ones
    /// too.
    pub(crate) fn ask() -> Result<Self> {
        let mirror = mirror()?;
        let found = first(RELEASES, |release| is_served(release, &mirror))?;
        let (gone, there) = RELEASES.split_at(found);
        Ok(Self { mirror, there, gone })
    }

    /// The oldest release that the mirror still has.
    pub(crate) fn oldest(&self) -> Result<&'static str> {
        let oldest = self.there.first().copied();
        oldest.ok_or_else(|| format!("{} has none of {RELEASES:?}", self.mirror).into())
    }
}

/// The place of the first release that is there, or the end.
fn first(releases: &[&str], is_there: impl Fn(&str) -> Result<bool>) -> Result<usize> {
    for (place, release) in releases.iter().enumerate() {
        if is_there(release)? {
            return Ok(place);
        }
    }
    Ok(releases.len())
}

/// Whether debootstrap can fetch the lists of `release`.
fn is_served(release: &str, mirror: &str) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new("debootstrap");
    command.args(["--print-debs", "--variant=minbase", release]);
    command.arg(folder.path().join("root")).arg(mirror);
    Ok(process::run(&mut command)?.status.success())
}

/// Makes the smallest root of `release` in the new folder `root`.
pub(crate) fn bootstrap(release: &str, root: &Path, mirror: &str) -> Result<()> {
    println!("making a root file system of Debian {release}");
    if root.exists() {
        // What an interrupted run left.
        std::fs::remove_dir_all(root)?;
    }
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", release]).arg(root).arg(mirror);
    process::succeed(&mut command)?;
    Ok(())
}

/// A command that will run inside `root`.
pub(crate) fn inside(root: &Path, program: &str) -> Command {
    let mut command = Command::new("chroot");
    command.arg(root).arg(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_archive_is_not_one_of_its_sisters() {
        let printed = "Debian Backports http://a/debian\nDebian-Security http://b/security\n\
                       Debian http://c/debian\nDebian http://d/debian\n";
        assert_eq!(main_archive(printed), Some("http://c/debian"));
        assert_eq!(main_archive("Other http://a/b\n"), None);
        assert_eq!(main_archive(""), None);
    }

    #[test]
    fn releases_are_asked_for_until_one_is_there() {
        let find = |wanted: &str| first(&["one", "two"], |release| Ok(release == wanted));
        assert_eq!(find("one").expect("asked"), 0);
        assert_eq!(find("two").expect("asked"), 1);
        assert_eq!(find("six").expect("asked"), 2);
        assert!(first(&["one"], |_| Err("no answer".into())).is_err());
    }

    #[test]
    fn a_mirror_without_any_has_no_oldest() {
        let served = |there| Served { mirror: "mirror".to_owned(), there, gone: &[] };
        assert_eq!(served(&["buster", "bookworm"]).oldest().expect("one"), "buster");
        assert!(served(&[]).oldest().is_err());
    }
}
