package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"tarbert/internal/spec"
)

var weekdays = map[string]time.Weekday{
	"sunday": time.Sunday, "monday": time.Monday, "tuesday": time.Tuesday, "wednesday": time.Wednesday, "thursday": time.Thursday,
	"friday": time.Friday, "saturday": time.Saturday,
}

func (c ProjectCalendar) calendar() Calendar {
	out := Calendar{HoursPerDay: c.HoursPerDay, Holidays: c.Holidays}
	for _, d := range c.Weekend {
		out.Weekend = append(out.Weekend, weekdays[strings.ToLower(d)])
	}
	return out
}

func (p *Project) checkStages(doc *spec.Document) {
	runs := 0
	names := map[string]bool{}
	for _, s := range p.Stages {
		names[s.Name] = true
	}
	for i, s := range p.Stages {
		field := fmt.Sprintf("stages[%d]", i)
		if s.Name == "" {
			doc.Wrong(field, "add `name: …`", "%s has no name", field)
		}
		kinds := 0
		for _, is := range []bool{s.Run, s.Hours.High > 0, s.Amount > 0} {
			if is {
				kinds++
			}
		}
		if s.Run {
			runs++
		}
		if kinds != 1 {
			doc.Wrong(field, "one of `run: true`, `hours: {low: …, high: …}`, or `amount:` with `rate:` an hour", "%s (%s) has %d kinds of length, and needs one", field, s.Name, kinds)
		}
		for j, d := range s.Calendar.Weekend {
			if _, known := weekdays[strings.ToLower(d)]; !known {
				doc.Wrong(fmt.Sprintf("%s.calendar.weekend[%d]", field, j), "saturday, sunday, …", "%q is no day of the week", d)
			}
		}
		for j, a := range s.After {
			if !names[a] {
				doc.Wrong(fmt.Sprintf("%s.after[%d]", field, j), "", "%s waits for %q, which is not among the stages", s.Name, a)
			}
		}
		a := s.activity()
		a.Name = fmt.Sprintf("%s (%s)", field, s.Name)
		if err := a.check(); err != nil {
			doc.Wrong(field, "", "%v", err)
		}
	}
	if len(p.Stages) > 0 && runs != 1 {
		doc.Wrong("stages", "mark the training run with `run: true`", "stages has %d training runs, and needs one", runs)
	}
	if doc.Err() == nil && len(p.Stages) > 0 {
		var activities []Activity
		for _, s := range p.Stages {
			activities = append(activities, s.activity())
		}
		if _, _, err := order(activities); err != nil {
			doc.Wrong("stages", "", "%v", err)
		}
	}
}

func (s ProjectStage) activity() Activity {
	return Activity{Name: s.Name, After: s.After, Duration: s.Hours, Amount: s.Amount, Rate: s.Rate, Calendar: s.Calendar.calendar(), Earliest: s.Earliest}
}

// Activities is the release around a run of these lengths, one a history.
func (p *Project) Activities(run []Hours) []Activity {
	var out []Activity
	for _, s := range p.stages() {
		a := s.activity()
		if s.Run {
			a.Samples = run
		}
		out = append(out, a)
	}
	return out
}

// stages is those of the file, or the run alone.
func (p *Project) stages() []ProjectStage {
	if len(p.Stages) > 0 {
		return p.Stages
	}
	return []ProjectStage{{Name: "train", Run: true}}
}

// RunStage is the name of the stage that is the training run.
func (p *Project) RunStage() string {
	stages := p.stages()
	return stages[slices.IndexFunc(stages, func(s ProjectStage) bool { return s.Run })].Name
}

// Begin is the first day on which anything of the project may be done.
func (p *Project) Begin() time.Time {
	return slices.MinFunc(p.Starts, time.Time.Compare)
}

// HasStage says whether a stage of this name is in the plan.
func (p *Project) HasStage(name string) bool {
	return slices.ContainsFunc(p.stages(), func(s ProjectStage) bool { return s.Name == name })
}

// HasPool says whether a pool of this name is in the plan.
func (p *Project) HasPool(name string) bool {
	return slices.ContainsFunc(p.clusters, func(c Cluster) bool { return c.Name == name })
}
