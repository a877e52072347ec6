package release

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tarbert/internal/certificate"
	"tarbert/internal/store"
)

// Listed is a release in a list.
type Listed struct {
	ID      string    `json:"id"`
	Spec    string    `json:"spec"`
	Begun   time.Time `json:"begun"`
	Stage   string    `json:"stage"`   // the last one that did something
	Verdict string    `json:"verdict"` // its last event: passed, failed, inconclusive, started, error
}

// List lists the releases in the home, oldest first.
func List(ctx context.Context, d Deps) ([]Listed, error) {
	infos, err := d.Store.Releases(ctx)
	if err != nil {
		return nil, err
	}
	out := []Listed{}
	for _, i := range infos {
		out = append(out, Listed{ID: i.ID, Spec: i.SpecPath, Begun: i.Created, Stage: i.Stage, Verdict: i.Event})
	}
	return out, nil
}

// Shown is a release with everything that it left. Paths are relative to the home.
type Shown struct {
	ID             string        `json:"id"`
	Spec           string        `json:"spec"`
	Begun          time.Time     `json:"begun"`
	Released       bool          `json:"released"`
	Stages         []StageResult `json:"stages"`
	Models         []ShownModel  `json:"models"`
	Certificate    string        `json:"certificate,omitempty"`
	ModelSignature string        `json:"model_signature,omitempty"`
	PublicKey      string        `json:"public_key,omitempty"`
}

// ShownModel is a directory that an engine can load.
type ShownModel struct {
	Name   string `json:"name"` // "checkpoint", "sft-checkpoint", "bf16", "w8a8-ascend", "released"
	Path   string `json:"path"`
	Digest string `json:"digest"`
}

// Show reads one release's newest results from the journal.
func Show(ctx context.Context, d Deps, id string) (*Shown, error) {
	infos, err := d.Store.Releases(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(infos, func(r store.ReleaseInfo) bool { return r.ID == id })
	if i < 0 {
		return nil, fmt.Errorf("%w: %s; `tarbert release list` prints the ids", store.ErrNoRelease, id)
	}
	records, err := d.Store.Records(ctx, id)
	if err != nil {
		return nil, err
	}
	s := &Shown{ID: id, Spec: infos[i].SpecPath, Begun: infos[i].Created, Stages: newest(records)}
	for _, st := range s.Stages {
		s.Released = s.Released || st.Stage == "serve" && st.Gate.Passed()
		for _, a := range st.Bound {
			if a.Kind == certificate.KindModel {
				s.Models = append(s.Models, ShownModel{Name: strings.TrimPrefix(a.Name, "model-"), Path: a.Path, Digest: a.Digest})
			}
		}
	}
	if s.Released {
		s.released(filepath.Join("releases", id), d.Home)
	}
	return s, nil
}

// released adds what a certified release has.
func (s *Shown) released(dir, home string) {
	for name, field := range map[string]*string{certificateName: &s.Certificate, signatureName: &s.ModelSignature, publicKeyName: &s.PublicKey} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(filepath.Join(home, path)); err == nil {
			*field = filepath.ToSlash(path)
		}
	}
	// The last converted form is the one that was verified and certified.
	for i := len(s.Models) - 1; i >= 0; i-- {
		if !strings.HasSuffix(s.Models[i].Name, "checkpoint") {
			m := s.Models[i]
			s.Models = append(s.Models, ShownModel{Name: "released", Path: m.Path, Digest: m.Digest})
			break
		}
	}
}

// newest is each stage's last verdict, in the order of the stages.
func newest(records []store.Record) []StageResult {
	last := map[string]StageResult{}
	for _, rec := range records {
		switch rec.Event {
		case "passed", "failed", "inconclusive":
			var st StageResult
			if json.Unmarshal(rec.Data, &st) == nil {
				last[rec.Stage] = st
			}
		}
	}
	out := []StageResult{}
	for _, name := range StageNames() {
		if st, ok := last[name]; ok {
			out = append(out, st)
		}
	}
	return out
}
