package plan

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/spec"
)

// ProjectName is the plan file of a folder.
const ProjectName = "plan.yaml"

// projectExample is a whole one, named where somebody needs one.
const projectExample = "examples/plans/deepseek-v3/plan.yaml"

// Project is a plan file: a model that is to be trained, the pools it could be
// trained on, the policy, and the release's other stages. Paths in it are
// relative to the file's folder.
type Project struct {
	Name      string `json:"name"`
	Seed      uint64 `json:"seed"`      // default 1
	Histories int    `json:"histories"` // default 10,000

	Pools    []ProjectPool   `json:"pools"`
	Recipes  []ProjectRecipe `json:"recipes"`
	Starts   []time.Time     `json:"starts"`
	Deadline time.Time       `json:"deadline,omitzero"` // of the training run
	Policy   []spec.Clause   `json:"policy"`

	Preference Preference `json:"preference"`
	Fallback   Fallback   `json:"fallback"`
	Faults     FaultFile  `json:"faults"`
	// Stages are the release around the run, for the forecast: labelling to serving.
	Stages []ProjectStage `json:"stages"`
	// Evidence is a JSON Lines file of what has happened since, beside the journal.
	Evidence string `json:"evidence"`
	// Replay says how a past attempt is played again (see Replay).
	Replay *Replay `json:"replay,omitempty"`

	Dir  string `json:"-"`
	File string `json:"-"`

	clusters  []Cluster
	workloads []Workload
	trace     Trace
	notes     []string
}

// ProjectPool is a pool by its inventory file, or by what is found here.
type ProjectPool struct {
	Inventory string `json:"inventory"`
	// Detect takes nodes, devices and memory from the chips of this vendor that
	// are found; the inventory file has what no tool says: rates, links, hazard.
	Detect string `json:"detect"`
	Role   string `json:"role"` // "preferred" or "fallback", the default
	// Measured is what was measured on the pool; it replaces the inventory's ranges.
	Measured Measurement `json:"measured"`
}

// Measurement is ranges from qualification or from a user's own history.
type Measurement struct {
	MFU     *Range `json:"mfu"`
	Hazard  *Range `json:"hazard"`
	Save    *Range `json:"save_seconds"`
	Inside  *Range `json:"inside_gbs"`
	Across  *Range `json:"across_gbs"`
	Overlap *Range `json:"overlap"`
	Price   *Range `json:"price_per_device_hour"`
	Queue   *Range `json:"queue_hours"`
}

// ProjectRecipe is what is to be trained, by the model's config.json or its sizes.
type ProjectRecipe struct {
	Name  string      `json:"name"`
	Model string      `json:"model"` // folder with config.json, or the file
	Sizes *ModelShape `json:"sizes"` // by hand
	// Parameters is the published total; if given, the sizes must give it.
	Parameters float64    `json:"parameters"`
	Sequence   int        `json:"sequence"`
	Batch      int        `json:"batch"`
	Tokens     float64    `json:"tokens"`
	MTP        bool       `json:"mtp"`
	DType      string     `json:"dtype"`
	Optimizer  string     `json:"optimizer"`
	Precision  *Precision `json:"precision"` // bytes per parameter; default by dtype and optimizer
	Layouts    []Layout   `json:"layouts"`   // none: the best that fits is searched for
}

// Preference is what the preferred pool is worth to the owner.
type Preference struct {
	Days  float64 `json:"days"`  // it may finish so much later
	Money Money   `json:"money"` // or cost so much more; needs day_worth
	// DayWorth is what finishing a day earlier is worth; 0 = cost does not rank.
	DayWorth Money `json:"day_worth"`
}

// Hours is the preference as time.
func (p Preference) Hours() Hours {
	h := Hours(24 * p.Days)
	if p.DayWorth > 0 {
		h += Hours(24 * float64(p.Money/p.DayWorth))
	}
	return h
}

// Fallback is what was agreed for leaving a pool, before the run.
type Fallback struct {
	Migration Range `json:"migration_hours"` // conversion, parity replay, first steps
	// Money is for the run in all, Hedge for preparing the fallback meanwhile; 0 = no limit, and no hedge.
	Money    Money   `json:"money"`
	Hedge    Money   `json:"hedge"`
	Floor    float64 `json:"floor"`    // least progress per wall hour over three days
	Breaches int     `json:"breaches"` // parity breaches in a row; default 2
	// BringUpDays is how long the first kept step may take; default 14.
	BringUpDays   float64 `json:"bring_up_days"`
	PreAuthorized bool    `json:"pre_authorized"`
}

// FaultFile is a trace of the user's own; the default is StepFun's.
type FaultFile struct {
	File  string `json:"file"` // node,start_h,end_h,level,class,description
	Nodes int    `json:"nodes"`
	Hours Hours  `json:"hours"`
	Merge bool   `json:"merge"` // overlapping faults of a node are one outage
}

// ProjectStage is a stage of the release on the calendar. Run is the training run itself.
type ProjectStage struct {
	Name     string          `json:"name"`
	After    []string        `json:"after"`
	Run      bool            `json:"run"`
	Hours    Range           `json:"hours"`  // of work, or
	Amount   float64         `json:"amount"` // so much of it,
	Rate     Range           `json:"rate"`   // at so much an hour
	Unit     string          `json:"unit"`
	Calendar ProjectCalendar `json:"calendar"`
	Earliest time.Time       `json:"earliest,omitzero"`
}

// ProjectCalendar is Calendar in words.
type ProjectCalendar struct {
	HoursPerDay float64     `json:"hours_per_day"` // 0 = around the clock
	Weekend     []string    `json:"weekend"`       // "saturday", …
	Holidays    []time.Time `json:"holidays"`
}

// optimizers gives the bytes per parameter of master weights and moments.
var optimizers = map[string]float64{
	"adamw": 12, "adamw-bf16-moments": 8, "muon": 8, "sgd": 8, "adamw-8bit": 6,
}

// IsProject says whether a path leads to a plan file: a folder with one, or a
// YAML file with recipes at its top.
func IsProject(path string) bool {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		_, err := os.Stat(filepath.Join(path, ProjectName))
		return err == nil
	}
	names := spec.TopFields(path)
	return filepath.Base(path) == ProjectName || slices.Contains(names, "recipes")
}

// ReadProject reads a plan file, or the plan.yaml of a folder, with everything
// that it names. Mistakes in files come back as *spec.Error, with places.
func ReadProject(path string) (*Project, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, ProjectName)
	}
	p := &Project{Seed: 1, Histories: 10_000, Fallback: Fallback{Breaches: 2, BringUpDays: 14}}
	doc, err := spec.ReadDocument(path, "plan file", projectExample, p)
	if err != nil {
		return nil, err
	}
	if err := doc.Err(); err != nil {
		return nil, err
	}
	p.Dir = doc.Dir
	if p.File, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if p.Evidence != "" {
		p.Evidence = doc.Path(p.Evidence)
	}
	p.checkHead(doc)
	errs := []error{p.readPools(doc), p.readFaults(doc)}
	p.readRecipes(doc)
	p.checkPolicy(doc)
	p.checkStages(doc)
	p.Replay.check(doc, p)
	// The plan file's own mistakes first: those of files that it names may follow from them.
	if err := errors.Join(append([]error{doc.Err()}, errs...)...); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Project) checkHead(doc *spec.Document) {
	if p.Name == "" {
		doc.Wrong("name", "add `name: …` at the top level", "name is missing")
	} else if !spec.ValidName(p.Name) {
		doc.Wrong("name", "", "name: %q is not made of up to 40 lower-case letters, digits and dashes", p.Name)
	}
	if p.Histories < 100 || p.Histories > 1_000_000 {
		doc.Wrong("histories", "10000 is usual", "histories is %d; it must be from 100 to 1000000", p.Histories)
	}
	if len(p.Starts) == 0 {
		doc.Wrong("starts", "add `starts: [2027-01-01]`", "starts is missing: on which days could training begin?")
	}
	for i, s := range p.Starts {
		if !p.Deadline.IsZero() && !p.Deadline.After(s) {
			doc.Wrong(fmt.Sprintf("starts[%d]", i), "", "starts[%d]: %s is not before the deadline of %s", i, day(s), day(p.Deadline))
		}
	}
	for _, f := range []struct {
		field string
		x     float64
	}{
		{"preference.days", p.Preference.Days}, {"preference.money", float64(p.Preference.Money)}, {"preference.day_worth", float64(p.Preference.DayWorth)},
		{"fallback.money", float64(p.Fallback.Money)}, {"fallback.hedge", float64(p.Fallback.Hedge)}, {"fallback.floor", p.Fallback.Floor},
		{"fallback.breaches", float64(p.Fallback.Breaches)}, {"fallback.bring_up_days", p.Fallback.BringUpDays},
	} {
		if f.x < 0 {
			doc.Wrong(f.field, "", "%s is %g: must not be negative", f.field, f.x)
		}
	}
	if p.Preference.Money > 0 && p.Preference.DayWorth == 0 {
		doc.Wrong("preference.money", "add preference.day_worth: what finishing a day earlier is worth", "preference.money cannot be weighed against time without day_worth")
	}
	if p.Fallback.Floor > 1 {
		doc.Wrong("fallback.floor", "a share of wall time, as 0.5", "fallback.floor %g is above 1", p.Fallback.Floor)
	}
	if err := p.Fallback.Migration.check("fallback.migration_hours", false); err != nil {
		doc.Wrong("fallback.migration_hours", "", "%v", err)
	}
}

func (p *Project) readPools(doc *spec.Document) error {
	var errs []error
	if len(p.Pools) == 0 {
		doc.Wrong("pools", "add `pools: [{inventory: ../clusters/llama3.yaml}]`", "pools is missing")
	}
	seen := map[string]bool{}
	for i := range p.Pools {
		pool, field := &p.Pools[i], fmt.Sprintf("pools[%d]", i)
		if pool.Inventory == "" {
			doc.Wrong(field, "add `inventory: FILE`; "+clusterExample+" is a whole one", "%s has no inventory", field)
			continue
		}
		if pool.Role == "" {
			pool.Role = string(spec.Fallback)
		}
		if pool.Role != string(spec.Preferred) && pool.Role != string(spec.Fallback) {
			doc.Wrong(field+".role", "preferred or fallback", "%s.role: %q is neither", field, pool.Role)
		}
		if pool.Detect != "" && !slices.Contains([]string{string(device.NVIDIA), string(device.Ascend), string(device.CPU)}, pool.Detect) {
			doc.Wrong(field+".detect", "nvidia, ascend or cpu", "%s.detect: %q is not known", field, pool.Detect)
		}
		c, err := ReadCluster(doc.Path(pool.Inventory))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		pool.Measured.into(&c)
		for _, bad := range c.problems() {
			doc.Wrong(field+".measured."+bad.field, bad.hint, "%s, as measured: %s", field, bad.what)
		}
		if seen[c.Name] {
			doc.Wrong(field+".inventory", "give each inventory a name of its own", "%s: a pool is called %s already", field, c.Name)
		}
		seen[c.Name] = true
		p.clusters = append(p.clusters, c)
	}
	return errors.Join(errs...)
}

// Measured takes what was measured on a pool since the plan was written.
func (p *Project) Measured(pool string, m Measurement) {
	for i := range p.clusters {
		if p.clusters[i].Name == pool {
			m.into(&p.clusters[i])
		}
	}
}

// Faulting is the trace that faults are drawn from.
func (p *Project) Faulting() Trace { return p.trace }

// into replaces the inventory's ranges by what was measured.
func (m Measurement) into(c *Cluster) {
	for _, f := range []struct {
		from *Range
		to   *Range
	}{{m.MFU, &c.MFU}, {m.Hazard, &c.Hazard}, {m.Save, &c.Save}, {m.Overlap, &c.Links.Overlap}, {m.Price, &c.Price}, {m.Queue, &c.Queue}} {
		if f.from != nil {
			*f.to = *f.from
			if f.to.Source == "" {
				f.to.Source = "measured"
			}
		}
	}
	if m.Inside != nil {
		c.Links.Inside = m.Inside.Mid()
	}
	if m.Across != nil {
		c.Links.Across = m.Across.Mid()
	}
}

func (p *Project) readFaults(doc *spec.Document) (err error) {
	if p.Faults.File == "" {
		p.trace, p.notes, err = DefaultTrace()
		p.notes = nil // of a trace that is not the user's
		return err
	}
	path := doc.Path(p.Faults.File)
	f, err := os.Open(path)
	if err != nil {
		doc.Wrong("faults.file", "paths are relative to the plan file's folder", "faults.file: %v", err)
		return nil
	}
	defer f.Close()
	p.trace, p.notes, err = ReadTrace(f, TraceOptions{Nodes: p.Faults.Nodes, Length: p.Faults.Hours, Merge: p.Faults.Merge})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (p *Project) readRecipes(doc *spec.Document) {
	if len(p.Recipes) == 0 {
		doc.Wrong("recipes", "add `recipes:` with a model, its tokens, dtype and optimizer", "recipes is missing")
	}
	for i, r := range p.Recipes {
		field := fmt.Sprintf("recipes[%d]", i)
		w, ok := r.workload(doc, field)
		if !ok {
			continue
		}
		if len(r.Layouts) == 0 {
			w.Search = true
			p.addWorkload(doc, field, w)
		}
		for j, l := range r.Layouts {
			w.Layout = l
			p.addWorkload(doc, fmt.Sprintf("%s.layouts[%d]", field, j), w)
		}
	}
}

func (p *Project) addWorkload(doc *spec.Document, field string, w Workload) {
	if err := w.Check(); err != nil {
		doc.Wrong(field, "", "%v", err)
		return
	}
	p.workloads = append(p.workloads, w)
}

func (r ProjectRecipe) workload(doc *spec.Document, field string) (Workload, bool) {
	w := Workload{Name: r.Name, DType: r.DType, Optimizer: r.Optimizer, Sequence: r.Sequence, Batch: r.Batch, Tokens: r.Tokens, MTP: r.MTP, Attention: "causal"}
	if r.Name == "" {
		doc.Wrong(field, "add `name: …`", "%s.name is missing", field)
		return w, false
	}
	var err error
	switch {
	case (r.Model == "") == (r.Sizes == nil):
		doc.Wrong(field, "give one of them", "%s: a recipe has either a model (folder with config.json) or sizes by hand", field)
		return w, false
	case r.Sizes != nil:
		w.Shape = *r.Sizes
		if err := w.Shape.Check(); err != nil {
			doc.Wrong(field+".sizes", "", "%s.sizes: %v", field, err)
			return w, false
		}
	default:
		if w.Shape, err = ReadShape(doc.Path(r.Model)); err != nil {
			doc.Wrong(field+".model", "", "%s.model: %v", field, err)
			return w, false
		}
	}
	if got := float64(Params(w.Shape).Total); r.Parameters > 0 && math.Abs(got/r.Parameters-1) > 0.02 {
		doc.Wrong(field+".parameters", "mend the sizes, or leave parameters away", "%s: the sizes give %s parameters, and parameters says %s", field, grouped(int64(got)), grouped(int64(r.Parameters)))
		return w, false
	}
	optimizer, known := optimizers[r.Optimizer]
	if !known && r.Precision == nil {
		doc.Wrong(field+".optimizer", "or give precision: bytes per parameter of weights, gradients, optimizer, activation",
			"%s.optimizer: %q is not known; known are %s", field, r.Optimizer, strings.Join(sortedKeys(optimizers), ", "))
		return w, false
	}
	w.Memory = Precision{Weights: 2, Gradients: 4, Optimizer: optimizer, Activation: 2}
	switch {
	case r.Precision != nil:
		w.Memory = *r.Precision
	case r.DType == "float32":
		w.Memory.Weights, w.Memory.Optimizer, w.Memory.Activation = 4, optimizer-4, 4 // its own master
	}
	return w, true
}

func (p *Project) checkPolicy(doc *spec.Document) {
	seen := map[string]bool{}
	for i, c := range p.Policy {
		field := fmt.Sprintf("policy[%d]", i)
		for _, m := range c.Mistakes(seen) {
			doc.Wrong(field+m.Field, m.Hint, "%s%s", field, m.What)
		}
		seen[c.ID] = true
	}
}
