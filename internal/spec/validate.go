package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// validate checks the table's rules on every field, then what holds between
// fields. files are the fields of the files that commands name.
func (d *decoder) validate(s *Release, files []string) {
	d.required()
	d.fields("", reflect.ValueOf(*s))
	d.pools(s)
	d.policy(s)
	d.training(s)
	d.trainers(s, files)
	d.conversion(s)
	d.serving(s)
}

// at is where a field's value stands, else its name, else the nearest section above it.
func (d *decoder) at(path string) mark {
	if m, ok := d.values[path]; ok {
		return m
	}
	for p := path; ; p = parent(p) {
		if m, ok := d.keys[p]; ok {
			return m
		}
		if p == "" {
			return mark{1, 1, 1}
		}
	}
}

func (d *decoder) has(path string) bool { _, ok := d.values[path]; return ok }

// missing reports a field that must be there.
func (d *decoder) missing(path, why string) {
	r, _ := ruleFor(d.table, path)
	where := "at the top level"
	if p := parent(path); p != "" {
		where = fmt.Sprintf("in `%s`", p)
		if !d.has(p) {
			where = fmt.Sprintf("in a section `%s`", p)
		}
	}
	at := mark{1, 1, 1}
	for p := parent(path); p != ""; p = parent(p) {
		if m, ok := d.keys[p]; ok {
			at = m
			break
		}
	}
	d.add(at, fmt.Sprintf("add `%s: %s` %s", leaf(path), r.example, where), "%s is missing%s", path, why)
}

// required reports the table's required fields that the file does not have. An
// element of a list owes its fields once per element.
func (d *decoder) required() {
	for _, r := range d.table {
		if !r.required {
			continue
		}
		list, rest, inList := strings.Cut(r.path, "[]")
		if !inList {
			if !d.has(r.path) {
				d.missing(r.path, "")
			}
			continue
		}
		for i := 0; d.has(fmt.Sprintf("%s[%d]", list, i)); i++ {
			if path := fmt.Sprintf("%s[%d]%s", list, i, rest); !d.has(path) {
				d.missing(path, "")
			}
		}
	}
}

// fields applies each field's rule to what the file says; defaults are right by construction.
func (d *decoder) fields(path string, v reflect.Value) {
	if path != "" && !d.has(path) {
		return
	}
	if r, ok := ruleFor(d.table, path); ok {
		d.rule(path, r, v)
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := fieldName(v.Type().Field(i)); name != "-" {
				d.fields(strings.TrimPrefix(path+"."+name, "."), v.Field(i))
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			d.fields(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	}
}

func (d *decoder) rule(path string, r rule, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		d.text(path, r, v.String())
	case reflect.Slice, reflect.Array:
		if n := float64(v.Len()); r.max > 0 && (n < r.min || n > r.max) {
			d.add(d.at(path), d.suggest(path), "%s holds %d elements; from %g to %g are allowed", path, v.Len(), r.min, r.max)
		}
	case reflect.Int, reflect.Float64:
		if v.Type() == reflect.TypeFor[Duration]() || r.max == 0 {
			return
		}
		x := v.Convert(reflect.TypeFor[float64]()).Float()
		within := fmt.Sprintf("from %s to %s", plain(r.min), plain(r.max))
		if r.open {
			within = fmt.Sprintf("more than %s and at most %s", plain(r.min), plain(r.max))
		}
		if x < r.min || x > r.max || r.open && x == r.min {
			d.add(d.at(path), d.suggest(path), "%s is %s; it must be %s", path, plain(x), within)
		}
	}
}

// plain writes a number without an exponent.
func plain(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

func (d *decoder) text(path string, r rule, s string) {
	switch {
	case strings.TrimSpace(s) == "":
		d.add(d.at(path), d.suggest(path), "%s is empty", path)
	case r.choices != nil && !slices.Contains(r.choices, s):
		hint := "known are " + strings.Join(r.choices, ", ")
		if n, ok := nearest(s, r.choices); ok {
			hint = fmt.Sprintf("did you mean `%s`? %s", n, hint)
		} else if len(r.choices) == 1 {
			hint = fmt.Sprintf("write `%s`, the only one known", r.choices[0])
		}
		d.add(d.at(path), hint, "%s: %q is not known", path, short(s))
	case r.pattern != nil && !r.pattern.MatchString(s):
		d.add(d.at(path), d.suggest(path), "%s: %q is not made of %s", path, short(s), r.form)
	case r.file == regularFile:
		d.readable(path, s, s)
	case r.file == modelFolder:
		for _, name := range []string{"config.json", "tokenizer.json"} {
			d.readable(path, s, filepath.Join(s, name))
		}
	}
}

// readable checks that a path leads to a file that can be read. shown is the path in the message.
func (d *decoder) readable(path, shown, file string) {
	// Stat before Open: opening a pipe would wait for its writer.
	info, err := os.Stat(file)
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = errors.New("it is not a regular file")
	default:
		var f *os.File
		if f, err = os.Open(file); err == nil {
			f.Close()
		}
	}
	var reason *fs.PathError
	switch {
	case err == nil:
		return
	case errors.Is(err, fs.ErrNotExist) && shown != file:
		d.add(d.at(path), "paths are relative to the release file's folder", "%s: %s holds no %s", path, shown, filepath.Base(file))
	case errors.Is(err, fs.ErrNotExist):
		d.add(d.at(path), "paths are relative to the release file's folder", "%s: there is no file %s", path, file)
	case errors.As(err, &reason):
		d.add(d.at(path), "", "%s: %s: %v", path, file, reason.Err)
	default:
		d.add(d.at(path), "", "%s: %s: %v", path, file, err)
	}
}

func (d *decoder) pools(s *Release) {
	seen := map[string]int{}
	var training, target, unknown bool
	for i, p := range s.Pools {
		path := fmt.Sprintf("pools[%d]", i)
		if first, dup := seen[p.Name]; dup && p.Name != "" {
			d.add(d.at(path+".name"), "give each pool its own name", "%s.name: %q is the name of pools[%d] already", path, p.Name, first)
		}
		seen[p.Name] = i
		roles := map[Role]bool{}
		for j, r := range p.Roles {
			if roles[r] {
				d.add(d.at(fmt.Sprintf("%s.roles[%d]", path, j)), "name each role once", "%s has the role %s twice", path, r)
			}
			roles[r] = true
			unknown = unknown || !slices.Contains([]Role{Preferred, Fallback, Reference, Target}, r)
		}
		if n := len(p.MFU); n > 0 && (n != 2 || p.MFU[0] > p.MFU[1]) {
			field := fmt.Sprintf("pools[%d].mfu", i)
			d.add(d.at(field), "write the least and the greatest share, as [0.2, 0.4]", "%s: %v is not a range", field, p.MFU)
		}
		training = training || p.Trains()
		target = target || roles[Target]
	}
	if len(s.Pools) == 0 || unknown { // reported already, and what was meant is open
		return
	}
	if !training {
		d.add(d.at("pools"), "give a pool the role `preferred` or `fallback`", "no pool may train")
	}
	if !target {
		d.add(d.at("pools"), "give a pool the role `target`", "no pool may serve")
	}
}

func (d *decoder) policy(s *Release) {
	seen := map[string]bool{}
	for i, c := range s.Policy {
		path := fmt.Sprintf("policy[%d]", i)
		for _, m := range c.Mistakes(seen) {
			if c.ID == "" || c.Text == "" { // reported as missing already
				continue
			}
			d.add(d.at(path+m.Field), m.Hint, "%s%s", path, m.What)
		}
		seen[c.ID] = true
	}
}

// supervision checks what the table cannot: durations, and the log's pattern.
func (d *decoder) supervision(t Train) {
	for path, v := range map[string]Duration{
		"train.supervise.hang_floor": t.Supervise.HangFloor, "train.supervise.first_limit": t.Supervise.FirstLimit,
		"train.supervise.unit_limit": t.Supervise.UnitLimit, "train.fallback.window": t.Fallback.Window,
	} {
		if d.has(path) && v <= 0 {
			d.add(d.at(path), d.suggest(path), "%s is %v; it must be positive", path, time.Duration(v))
		}
	}
	for _, f := range []struct {
		path string
		d    Duration
	}{{"train.fallback.clean_within", t.Fallback.CleanWithin}, {"train.fallback.preference", t.Fallback.Preference}} {
		if d.has(f.path) && f.d < 0 {
			d.add(d.at(f.path), d.suggest(f.path), "%s is %v; it must not be negative", f.path, time.Duration(f.d))
		}
	}
	path := "train.supervise.log_pattern"
	if !d.has(path) {
		return
	}
	re, err := regexp.Compile(t.Supervise.LogPattern)
	switch {
	case err != nil:
		d.add(d.at(path), d.suggest(path), "%s: %v", path, err)
	case re.SubexpIndex("loss") < 0 && re.SubexpIndex("step") < 0:
		d.add(d.at(path), d.suggest(path), "%s has no group named step or loss", path)
	}
}

func (d *decoder) training(s *Release) {
	if d.has("plan.deadline") && s.Plan.Deadline <= 0 {
		d.add(d.at("plan.deadline"), d.suggest("plan.deadline"), "plan.deadline is %v; it must be positive", time.Duration(s.Plan.Deadline))
	}
	d.supervision(s.Train)
	if g := s.Train.GRPO; g.Steps > 0 {
		const why = ", and train.grpo.steps asks for reinforcement learning"
		for _, name := range []string{"problems", "prompts", "samples", "max_tokens", "optimizer.learning_rate"} {
			if path := "train.grpo." + name; !d.has(path) {
				d.missing(path, why)
			}
		}
	}
	for _, o := range []struct {
		path          string
		steps, warmup int
	}{
		{"train.sft", s.Train.SFT.Steps, s.Train.SFT.Optimizer.Warmup},
		{"train.grpo", s.Train.GRPO.Steps, s.Train.GRPO.Optimizer.Warmup},
	} {
		if o.steps > 0 && o.warmup > o.steps {
			d.add(d.at(o.path+".optimizer.warmup"), "warm up for fewer steps, or train for more",
				"%s.optimizer.warmup is %d, more than the %d steps there are", o.path, o.warmup, o.steps)
		}
	}
}

func (d *decoder) conversion(s *Release) {
	seen := map[string]bool{}
	for i, f := range s.Convert.Formats {
		if seen[f] {
			d.add(d.at(fmt.Sprintf("convert.formats[%d]", i)), "name each format once", "convert.formats holds %s twice", f)
		}
		seen[f] = true
	}
	if d.has("verify.format") && slices.Contains(Formats(), s.Verify.Format) && !seen[s.Verify.Format] && len(s.Convert.Formats) > 0 {
		d.add(d.at("verify.format"), fmt.Sprintf("add it to convert.formats, or verify one of %s", strings.Join(s.Convert.Formats, ", ")),
			"verify.format: %s is not among convert.formats", s.Verify.Format)
	}
	if s.Compare.MaxTokens == 0 && d.has("compare.problems") {
		d.missing("compare.max_tokens", ", and there is no train.grpo.max_tokens to take it from")
	}
}

func (d *decoder) serving(s *Release) {
	if !d.has("serve.addr") {
		return
	}
	// Split by hand: this package opens no sockets and does not import net.
	i := strings.LastIndexByte(s.Serve.Addr, ':')
	port, err := strconv.Atoi(s.Serve.Addr[i+1:])
	if i < 0 || err != nil || port < 0 || port > 65535 || strings.Count(s.Serve.Addr, ":") > 1 && !strings.HasPrefix(s.Serve.Addr, "[") {
		d.add(d.at("serve.addr"), d.suggest("serve.addr"), "serve.addr: %q is not host:port", short(s.Serve.Addr))
	}
}
