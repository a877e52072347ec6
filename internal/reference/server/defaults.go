package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Defaults is how a request is sampled where it does not say; nil is OpenAI's
// default. vLLM takes them from the model's generation_config.json.
type Defaults struct {
	Temperature       *float64 `json:"temperature"`
	TopP              *float64 `json:"top_p"`
	TopK              *float64 `json:"top_k"`
	MinP              *float64 `json:"min_p"`
	RepetitionPenalty *float64 `json:"repetition_penalty"`
}

// ReadDefaults reads a model directory's generation_config.json; a directory
// without one has no defaults of its own.
func ReadDefaults(dir string) (Defaults, error) {
	path := filepath.Join(dir, "generation_config.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Defaults{}, nil
	}
	if err != nil {
		return Defaults{}, err
	}
	var d Defaults
	if err := json.Unmarshal(b, &d); err != nil {
		return Defaults{}, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}
