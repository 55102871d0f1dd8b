//! One libapt session: open, update, solve, acquire.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use apt_ostree_fsx::{Lock as FileLock, LockMode, Wait};
use apt_ostree_model::{Plan, PlannedPackage, Reporter};
use apt_ostree_treefile::spec::RepoSpec;
use camino::Utf8PathBuf;
use rust_apt::Cache;

use crate::aptconf::{self, Layout};
use crate::candidates::{self, Rules};
use crate::onbase::Additions;
use crate::query::{self, Find, Found};
use crate::refresh::{self, SourceState};
use crate::sources::{self, Sources};
use crate::spec::AptConfig;
use crate::{acquire, files, onbase, plancache, planner, prune, request, solve};

/// A libapt session. libapt's state is global, so a process can have only one.
#[derive(Debug)]
pub struct Session {
    config: AptConfig,
    layout: Layout,
    sources: Sources,
    state: Option<SourceState>,
    /// Held until the plan is there.
    lock: Option<FileLock>,
}

/// A treefile repo with the URL that was found for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// The repo; its suites are those that this URL serves.
    pub repo: RepoSpec,
    /// The base URL.
    pub url: String,
}

impl Session {
    /// Checks the configuration, writes keyrings and sources into the state directory and sets up
    /// libapt.
    ///
    /// Waits while another process works in the same state directory.
    ///
    /// # Errors
    /// When a repo, key or local package is unusable, or libapt serves a session already.
    pub fn open(config: AptConfig, reporter: &dyn Reporter) -> Result<Self> {
        let mut config = config;
        for dir in [&mut config.state_dir, &mut config.debs_dir] {
            *dir = camino::absolute_utf8(&*dir).with_context(|| format!("resolving '{dir}'"))?;
        }
        if let Some(lock) = &config.lock {
            lock.check_arch(&config.spec.arch)?;
        }
        let layout = Layout::create(&config.state_dir, config.spec.base.as_ref())?;
        let path = layout.root.join("lock");
        let lock = FileLock::acquire(&path, LockMode::Exclusive, Wait::Forever)?;
        let sources = sources::resolve(&config)?;
        for source in sources.list.iter().filter(|source| !source.generated) {
            reporter.detail(format!(
                "repo '{}': {} {}",
                source.repo, source.uri, source.suite
            ));
        }
        aptconf::configure(&config, &layout, &sources)?;
        Ok(Self {
            config,
            layout,
            sources,
            state: None,
            lock: Some(lock),
        })
    }

    /// Refreshes and verifies the package indices; without a network when the session is offline.
    ///
    /// # Errors
    /// When any index can't be refreshed or verified, or is not the one asked for.
    pub fn update(&mut self, reporter: &dyn Reporter) -> Result<SourceState> {
        let mut state =
            refresh::update(&self.layout, &self.sources, self.config.offline, reporter)?;
        if let Some(lock) = self.config.lock.as_ref().filter(|lock| lock.is_strict()) {
            state.sources = lock.to_plan()?.sources;
        }
        self.state = Some(state.clone());
        Ok(state)
    }

    /// Chooses packages. Nothing is solved again when nothing has changed since the last time.
    ///
    /// # Errors
    /// When the packages can't be installed together, or an index is wrong about one of them.
    pub fn solve(&mut self, reporter: &dyn Reporter) -> Result<Plan> {
        let state = self
            .state
            .clone()
            .context("the package indices were not refreshed")?;
        let key = plancache::key(&self.config, &self.sources, &state)?;
        let plan = match plancache::load(&self.layout.plans(), &key) {
            Some(plan) => {
                reporter.detail("the plan is unchanged");
                plan
            }
            None => {
                let mut plan = self.solve_now(reporter)?;
                plan.sources = state.sources;
                plancache::store(&self.layout.plans(), &key, &plan)?;
                plan
            }
        };
        if self.lock.is_some() {
            self.prune(reporter);
        }
        self.lock = None;
        Ok(plan)
    }

    /// Makes room in the state directory; the plan is good even if that fails.
    fn prune(&self, reporter: &dyn Reporter) {
        match prune::state(&self.layout, &self.sources) {
            Ok(pruned) if pruned.count == 0 => {}
            Ok(pruned) => {
                reporter.detail(format!("removed {} old indices and plans", pruned.count));
            }
            Err(error) => reporter.warning(format!("{error:#}")),
        }
    }

    /// Chooses packages to add to [`SolveSpec::base`], whose packages stay as they are unless an
    /// override says otherwise.
    ///
    /// # Errors
    /// When packages don't exist, or can't be added without changing the base: then the error
    /// names the packages of the base and who asks for the change.
    ///
    /// [`SolveSpec::base`]: crate::SolveSpec::base
    pub fn solve_on_base(&mut self, reporter: &dyn Reporter) -> Result<Additions> {
        let state = self
            .state
            .clone()
            .context("the package indices were not refreshed")?;
        let base = self.config.spec.base.as_ref();
        let base = base.context("the session has no base")?;
        let rules = self.rules()?;
        let open = || self.open_cache(&rules, reporter);
        let mut additions = onbase::solve(&open, &rules, base, reporter)?;
        additions.plan.sources = state.sources;
        self.prune(reporter);
        self.lock = None;
        Ok(additions)
    }

    /// Looks for packages.
    ///
    /// # Errors
    /// When the indices were not refreshed, or can't be read.
    pub fn find(&self, what: Find<'_>, reporter: &dyn Reporter) -> Result<Vec<Found>> {
        self.state
            .as_ref()
            .context("the package indices were not refreshed")?;
        let rules = self.rules()?;
        let cache = self.open_cache(&rules, reporter)?;
        Ok(query::find(&cache, &rules, what))
    }

    fn rules(&self) -> Result<Rules<'_>> {
        let locked = self.locked()?;
        Ok(Rules::new(
            &self.config.spec,
            &self.sources,
            &self.layout,
            locked,
        ))
    }

    /// Opens libapt's cache with the candidates that the rules prescribe.
    fn open_cache(&self, rules: &Rules<'_>, reporter: &dyn Reporter) -> Result<Cache> {
        let mut hidden = BTreeSet::new();
        loop {
            let text = candidates::preferences(&self.config.spec, &hidden)?;
            let path = self.layout.preferences();
            files::write_if_changed(&path, text.as_bytes())
                .with_context(|| format!("writing '{path}'"))?;
            let cache = refresh::open()?;
            let more = rules.apply(&cache, reporter)?;
            if more.is_subset(&hidden) {
                return Ok(cache);
            }
            hidden.extend(more);
        }
    }

    fn solve_now(&self, reporter: &dyn Reporter) -> Result<Plan> {
        let rules = self.rules()?;
        let cache = self.open_cache(&rules, reporter)?;
        let essential = solve::essential(&cache, &rules, reporter);
        let wanted = request::expand_all(&cache, &rules, reporter)?;
        solve::mark(&cache, &rules, &essential, &wanted)?;
        let plan = planner::plan(&cache, &rules, &essential, &wanted)?;
        let (_, warnings) = crate::error::drain();
        for warning in warnings {
            reporter.detail(warning);
        }
        Ok(plan)
    }

    /// Locked packages by `name` or `name:arch`.
    fn locked(&self) -> Result<BTreeMap<String, PlannedPackage>> {
        let Some(lock) = &self.config.lock else {
            return Ok(BTreeMap::new());
        };
        let native = &self.config.spec.arch;
        let packages = lock.to_plan()?.packages;
        Ok(packages
            .into_iter()
            .map(|p| (p.display_name(native), p))
            .collect())
    }

    /// Fetches the packages of a plan, which may also come from a lockfile. The paths are in the
    /// order of the plan; each file has the size and SHA-256 of its package.
    ///
    /// # Errors
    /// When a package can't be fetched or is not what the plan says.
    pub fn acquire(&self, plan: &Plan, reporter: &dyn Reporter) -> Result<Vec<Utf8PathBuf>> {
        acquire::acquire(
            plan,
            &self.config.debs_dir,
            &self.layout,
            self.config.offline,
            reporter,
        )
    }

    /// Removes those packages of a plan from the cache whose files are damaged, so that the next
    /// [`Session::acquire`] fetches them again; returns how many.
    ///
    /// This reads all files. It is for the case that one turned out to be wrong when it was used.
    ///
    /// # Errors
    /// When a damaged file can't be removed.
    pub fn discard_damaged(&self, plan: &Plan, reporter: &dyn Reporter) -> Result<usize> {
        acquire::discard_damaged(plan, &self.config.debs_dir, reporter)
    }

    /// The treefile's repos with their URLs, one entry per URL, without those of this machine.
    pub fn image_sources(&self) -> Vec<ImageSource> {
        let mut found: Vec<ImageSource> = Vec::new();
        for repo in &self.config.spec.repos {
            for (_, suite, url) in self
                .sources
                .image
                .iter()
                .filter(|(name, ..)| *name == repo.name)
            {
                let same = |s: &&mut ImageSource| s.repo.name == repo.name && s.url == *url;
                match found.iter_mut().find(same) {
                    Some(known) => known.repo.suites.push(suite.clone()),
                    None => found.push(ImageSource {
                        repo: RepoSpec {
                            suites: vec![suite.clone()],
                            ..repo.clone()
                        },
                        url: url.clone(),
                    }),
                }
            }
        }
        found
    }
}
