//! The way back: a committed tree becomes the installed root that it was made from, so that
//! packages can be added to it. Finishing that root again gives the same tree.
//!
//! What is not in the tree comes back from what is said about it: directories, links and empty
//! files of `/var` from tmpfiles.d, its content from the factory tree.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use apt_ostree_model::tree::{join, split};
use apt_ostree_model::{Dir, ErrorKind, File, Kinded, Meta, Node, Tree};
use fn_error_context::context;

use super::accounts::{Accounts, SYSUSERS};
use super::boot::{MODULES, find_kernel};
use super::image::{line_meta, node_of};
use super::layout::VAR_LINKS;
use super::pkgdb::{REGISTRIES, SYSIMAGE};
use super::presets::PRESET;
use super::tmpfiles::{self, Line};
use super::var::{AUTOVAR, EARLY, FACTORY};
use crate::content::{self, Content};

/// dpkg's file lists in an installed root.
const INFO: &str = "var/lib/dpkg/info";

/// An installed root and what has no place in one.
#[derive(Debug, Clone)]
pub struct Reopened {
    /// The root, with `/etc`, `/var/lib/dpkg` and `/boot`.
    pub tree: Tree,
    /// The initramfs.
    pub initramfs: Option<File>,
    /// Directories and files of `/var` that were in the factory tree.
    pub factory: Vec<String>,
}

/// Makes the installed root of a committed tree.
///
/// # Errors
/// When the tree has no package database, has several kernels, or content can't be read.
#[context("reopening the tree")]
pub fn reopen(tree: Tree, content: &dyn Content) -> Result<Reopened> {
    let mut work = Reopen {
        tree,
        content,
        factory: Vec::new(),
    };
    work.move_etc()?;
    let lines = tmpfiles::lines_of(&work.tree, content)?;
    work.restore_registries()?;
    work.restore_var(lines)?;
    work.restore_toplevel()?;
    for path in [SYSUSERS, EARLY, AUTOVAR, PRESET, "sysroot", "ostree"] {
        work.tree.remove(path);
    }
    for path in ["usr/lib/sysimage/apt", SYSIMAGE, FACTORY] {
        work.remove_if_empty(path);
    }
    let initramfs = work.restore_kernel()?;
    Ok(Reopened {
        tree: work.tree,
        initramfs,
        factory: work.factory,
    })
}

struct Reopen<'a> {
    tree: Tree,
    content: &'a dyn Content,
    factory: Vec<String>,
}

impl Reopen<'_> {
    fn move_etc(&mut self) -> Result<()> {
        if self.tree.contains("usr/etc") {
            self.tree.remove("etc");
            self.tree.rename("usr/etc", "etc")?;
        }
        Ok(())
    }

    /// Moves what is at `from` to `to` and makes the parents of `to`.
    fn put_back(&mut self, from: &str, to: &str) -> Result<()> {
        let context = || format!("moving '/{from}' to '/{to}'");
        self.tree
            .ensure_dir(split(to).0, &Meta::root(0o755))
            .with_context(context)?;
        self.tree.rename(from, to).with_context(context)
    }

    fn remove_if_empty(&mut self, path: &str) {
        if self.tree.dir(path).is_some_and(|d| d.entries.is_empty()) {
            self.tree.remove(path);
        }
    }

    fn restore_registries(&mut self) -> Result<()> {
        for (var_path, name) in REGISTRIES {
            let (from, to) = (join(SYSIMAGE, name), join("var", var_path));
            if !self.tree.contains(&from) {
                continue;
            }
            // The container form of a tree has links there.
            self.tree.remove(&to);
            self.put_back(&from, &to)?;
        }
        if self.tree.file("var/lib/dpkg/status").is_none() {
            let message = "the tree has no dpkg database";
            return Err(Kinded::new(ErrorKind::InvalidInput, message)
                .with_hint(
                    "packages can only be layered on a tree that has '/usr/lib/sysimage/dpkg'",
                )
                .into());
        }
        Ok(())
    }

    /// Makes what tmpfiles.d would make in `/var` at boot; the first line for a path counts.
    fn restore_var(&mut self, lines: Vec<Line>) -> Result<()> {
        let accounts = Accounts::load(&self.tree, self.content)?;
        let mut first: BTreeMap<String, Line> = BTreeMap::new();
        for line in lines {
            if line.creates() && line.path.starts_with("/var/") {
                first.entry(line.path.clone()).or_insert(line);
            }
        }
        for (path, line) in first {
            let path = path.trim_start_matches('/');
            if self.tree.contains(path) {
                continue;
            }
            let source = line.argument.trim_start_matches('/');
            if line.kind == 'C' {
                if source == join(FACTORY, path.trim_start_matches("var/"))
                    && self.tree.contains(source)
                {
                    self.take_from_factory(source, path)?;
                }
                continue;
            }
            if self.tree.dir(split(path).0).is_none() {
                continue;
            }
            let node = match line.kind {
                'f' | 'F' => self.empty_file(&line, &accounts)?,
                _ => node_of(&line, &self.tree, self.content, &accounts)?,
            };
            if let Some(node) = node {
                self.tree.insert(path, node)?;
            }
        }
        Ok(())
    }

    fn empty_file(&self, line: &Line, accounts: &Accounts) -> Result<Option<Node>> {
        if !line.argument.is_empty() {
            return Ok(None);
        }
        let Some(meta) = line_meta(line, accounts, 0o644) else {
            return Ok(None);
        };
        let file = self.content.put_file(&meta, b"");
        let file = file.with_context(|| format!("storing '{}'", line.path))?;
        Ok(Some(Node::File(file)))
    }

    fn take_from_factory(&mut self, source: &str, path: &str) -> Result<()> {
        self.put_back(source, path)?;
        self.factory.push(format!("/{path}"));
        let mut parent = split(source).0;
        while parent.len() > FACTORY.len() {
            self.remove_if_empty(parent);
            parent = split(parent).0;
        }
        Ok(())
    }

    /// `/home`, `/opt` and so on are directories again, with what they have in `/var`.
    fn restore_toplevel(&mut self) -> Result<()> {
        let links = VAR_LINKS
            .iter()
            .map(|(path, _, place, mode)| (*path, *place, *mode));
        let more = [
            ("opt", "var/opt", 0o755),
            ("usr/local", "var/usrlocal", 0o755),
        ];
        for (path, place, mode) in links.chain(more) {
            if !matches!(self.tree.get(path), Some(Node::Symlink(_))) {
                continue;
            }
            self.tree.remove(path);
            let node = self.tree.remove(place);
            let node = node.filter(|node| node.as_dir().is_some());
            let node = node.unwrap_or_else(|| Node::Dir(Dir::new(Meta::root(mode))));
            self.tree.insert(path, node)?;
        }
        self.restore_opt()?;
        for (path, mode) in [("media", 0o755), ("tmp", 0o1777)] {
            if self.tree.dir(path).is_none() {
                self.tree
                    .insert(path, Node::Dir(Dir::new(Meta::root(mode))))?;
            }
        }
        Ok(())
    }

    /// Content of `/opt`, in place of the links to it.
    fn restore_opt(&mut self) -> Result<()> {
        const RELOCATED: &str = "usr/lib/opt";
        let dir = self.tree.dir(RELOCATED).into_iter();
        let names: Vec<String> = dir.flat_map(|d| d.entries.keys().cloned()).collect();
        for name in names {
            let to = join("opt", &name);
            let target = format!("../../{RELOCATED}/{name}");
            let linked = matches!(self.tree.get(&to), Some(Node::Symlink(l)) if l.target == target);
            if linked {
                self.tree.remove(&to);
                self.put_back(&join(RELOCATED, &name), &to)?;
            }
        }
        self.remove_if_empty(RELOCATED);
        Ok(())
    }

    /// Puts the kernel where its package ships it; returns the initramfs.
    fn restore_kernel(&mut self) -> Result<Option<File>> {
        let Some(kernel) = find_kernel(&self.tree)? else {
            return Ok(None);
        };
        let dir = join(MODULES, &kernel.version);
        let shipped = self.shipped_in_boot()?;
        for (name, stem) in [
            ("vmlinuz", "vmlinuz"),
            ("vmlinuz", "vmlinux"),
            ("System.map", "System.map"),
            ("config", "config"),
        ] {
            let to = format!("boot/{stem}-{}", kernel.version);
            let from = join(&dir, name);
            if shipped.contains(&to) && self.tree.file(&from).is_some() && !self.tree.contains(&to)
            {
                self.put_back(&from, &to)?;
            }
        }
        match self.tree.remove(&join(&dir, "initramfs.img")) {
            Some(Node::File(file)) => Ok(Some(file)),
            _ => Ok(None),
        }
    }

    /// Paths in `/boot` that kernel packages ship.
    fn shipped_in_boot(&self) -> Result<BTreeSet<String>> {
        let mut paths = BTreeSet::new();
        let names = self
            .tree
            .dir(INFO)
            .into_iter()
            .flat_map(|d| d.entries.keys());
        for name in names.filter(|n| n.starts_with("linux-") && n.ends_with(".list")) {
            let text = content::read_text(&self.tree, self.content, &join(INFO, name))?;
            let inside = text.lines().map(|path| path.trim_start_matches('/'));
            paths.extend(inside.filter(|p| p.starts_with("boot/")).map(str::to_owned));
        }
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::reopen;
    use crate::postprocess::testing::Sample;
    use crate::postprocess::{Input, finish};

    #[test]
    fn a_reopened_tree_is_finished_to_the_same_tree() {
        let mut sample = Sample::bootable();
        for path in [
            "opt/vendor/bin/tool",
            "root/.profile",
            "home/x/file",
            "usr/local/share/y",
            "var/lib/service/data",
            "var/lib/ucf/registry",
            "var/cache/debconf/config.dat",
            "boot/System.map-6.12-amd64",
        ] {
            sample.file(path, "content");
        }
        sample.file("var/lib/empty-state", "");
        sample.file(
            "var/lib/dpkg/status",
            "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n",
        );
        sample.file(
            "var/lib/dpkg/info/linux-image-6.12-amd64.list",
            "/.\n/boot\n/boot/vmlinuz-6.12-amd64\n/boot/System.map-6.12-amd64\n",
        );
        let first = sample.finish().unwrap();
        let reopened = reopen(first.tree.clone(), &sample.content).unwrap();
        for path in [
            "etc/passwd",
            "var/lib/dpkg/status",
            "opt/vendor/bin/tool",
            "root/.profile",
            "var/lib/service/data",
            "boot/vmlinuz-6.12-amd64",
            "var/lib/empty-state",
        ] {
            assert!(reopened.tree.file(path).is_some(), "{path}");
        }
        let input = Input {
            content: &sample.content,
            packages: &[],
            options: &sample.options,
        };
        let second = finish(reopened.tree, input, reopened.initramfs).unwrap();
        let difference = |a: &apt_ostree_model::Tree, b: &apt_ostree_model::Tree| -> Vec<String> {
            a.walk()
                .filter(|(path, node)| node.as_dir().is_none() && b.get(path) != Some(*node))
                .map(|(path, _)| path)
                .collect()
        };
        assert_eq!(difference(&first.tree, &second.tree), Vec::<String>::new());
        assert_eq!(first.tree, second.tree);
    }
}
