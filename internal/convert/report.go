package convert

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"tarbert/internal/progress"
)

// Rounding names the arithmetic of int8 scales and codes.
type Rounding string

const (
	// Compatible divides in the model's bfloat16, as msmodelslim does, to the bit.
	Compatible Rounding = "compatible"
	// Exact divides in float32, from the source's values.
	Exact Rounding = "exact"
)

// Naming says what the weights' files are called.
type Naming string

const (
	// HuggingFace is model-0000i-of-0000N.safetensors with its index: what vLLM's loader consults.
	HuggingFace Naming = "huggingface"
	// MSModelSlim is quant_model_weights-0000i-of-0000N.safetensors with its own index.
	MSModelSlim Naming = "msmodelslim"
)

// Scales is the type of the scales of FP8 blocks.
type Scales string

const (
	// ScalesF32 is float32: absmax over 448.
	ScalesF32 Scales = "float32"
	// ScalesE8M0 is a power of two in a byte: the next one above.
	ScalesE8M0 Scales = "ue8m0"
)

// Options of a conversion. The zero value is the compatible default.
type Options struct {
	Rounding Rounding // of the int8 formats; default Compatible
	Naming   Naming   // of files; default HuggingFace; w8a8-ascend alone has another
	Layout   Layout   // of tensors' names; default the source's
	Scales   Scales   // of the FP8 formats; default float32 for fp8-block, ue8m0 for fp8
	// Keep holds patterns of modules left in bfloat16 besides the architecture's own; * is any run of characters.
	Keep []string
	// ShardSize is the most bytes of tensors in a file, unless one tensor has more; default 4 GiB.
	ShardSize int64
	// Workers is how many bands are converted at once; default one per processor.
	Workers int
	// Memory is the most bytes the process may take, by the plan's estimate; default
	// 256 MiB. Fewer workers are used where that keeps to it.
	Memory   int64
	Progress progress.Func
}

// Action is what became of a source tensor.
type Action string

// The actions. Every source tensor has exactly one.
const (
	Quantised   Action = "quantised"
	Dequantised Action = "dequantised"
	Expanded    Action = "expanded" // FP4 to FP8 of the same values
	Cast        Action = "cast"
	Copied      Action = "copied"
	Dropped     Action = "dropped"
)

// TensorReport is the fate of one source tensor.
type TensorReport struct {
	Name    string   `json:"name"`
	Action  Action   `json:"action"`
	Reason  string   `json:"reason"`
	From    string   `json:"from"`              // dtype; with its scale's where it has one
	To      string   `json:"to,omitempty"`      // dtype of the first output
	Shape   []int64  `json:"shape"`             // of the numbers
	Outputs []string `json:"outputs,omitempty"` // names, in the file below
	File    string   `json:"file,omitempty"`
	// MaxAbsError is the largest |source - decoded output|; Bound the largest
	// that any of its elements was allowed. Each element was held against its own.
	MaxAbsError float64 `json:"max_abs_error"`
	Bound       float64 `json:"bound"`
	// SQNR is 10 log10(Σ w² / Σ error²) in dB; absent where there is no error.
	SQNR float64 `json:"sqnr_db,omitempty"`
	// OtherSQNR is what the other rounding would have given, for int8.
	OtherSQNR float64 `json:"other_sqnr_db,omitempty"`
	// Tiles is how many tiles of FP4 were proved to be unchanged in FP8, and Spread
	// counts them by log2 of the ratio of a tile's largest to its smallest scale; the
	// last entry is for 15 and more.
	Tiles    int64   `json:"tiles,omitempty"`
	Spread   []int64 `json:"spread,omitempty"`
	BytesIn  int64   `json:"bytes_in"`
	BytesOut int64   `json:"bytes_out"`
}

// FileReport is one file of the source directory, or one that was written.
type FileReport struct {
	Name   string `json:"name"`
	Action string `json:"action"` // "copied", "edited", "written", "converted", "left"
	Reason string `json:"reason,omitempty"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"` // of the file in the destination
}

// Totals sums a conversion up.
type Totals struct {
	Tensors     int   `json:"tensors"` // in the source; a weight and its scale are one
	Quantised   int   `json:"quantised"`
	Dequantised int   `json:"dequantised"`
	Expanded    int   `json:"expanded"`
	Cast        int   `json:"cast"`
	Copied      int   `json:"copied"`
	Dropped     int   `json:"dropped"`
	Outputs     int   `json:"outputs"` // tensors in the destination
	BytesIn     int64 `json:"bytes_in"`
	BytesOut    int64 `json:"bytes_out"`
	// Tiles is how many tiles of FP4 were proved to be unchanged in FP8.
	Tiles int64 `json:"tiles,omitempty"`
	// CompatibleSQNR and ExactSQNR are those of all int8 weights together, in dB, by
	// either rounding; the report's Rounding is the one that was written.
	CompatibleSQNR float64 `json:"compatible_sqnr_db,omitempty"`
	ExactSQNR      float64 `json:"exact_sqnr_db,omitempty"`
	// WorstSQNR is the lowest of any tensor in dB, and WorstTensor its name;
	// absent where nothing lost precision.
	WorstSQNR   float64 `json:"worst_sqnr_db,omitempty"`
	WorstTensor string  `json:"worst_tensor,omitempty"`
}

// Report is the record of a conversion. It depends on the source and the
// options alone, and lies in the destination as conversion.json.
type Report struct {
	Version      int            `json:"version"`
	Format       string         `json:"format"`
	Rounding     Rounding       `json:"rounding"`
	Naming       Naming         `json:"naming"`
	Layout       Layout         `json:"layout,omitempty"`
	Scales       Scales         `json:"scales,omitempty"`
	ShardSize    int64          `json:"shard_size"`
	Architecture string         `json:"architecture"` // model_type
	Keep         []string       `json:"keep,omitempty"`
	Ignored      []Rule         `json:"ignored"` // the architecture's list of what stays float
	SourceDigest string         `json:"source_digest"`
	Digest       string         `json:"digest"` // of the destination's files but this one
	Totals       Totals         `json:"totals"`
	Files        []FileReport   `json:"files"`
	Tensors      []TensorReport `json:"tensors"`

	// Resumed is how many bytes of output were taken over, verified, from a
	// conversion that was killed or cancelled. It is no part of the record.
	Resumed int64 `json:"-"`
}

const (
	recordName    = "conversion.json"
	recordVersion = 2
)

// Violation is a rule that a model or a conversion breaks.
type Violation struct {
	Rule   string `json:"rule"`
	Tensor string `json:"tensor,omitempty"` // or file
	Detail string `json:"detail"`
}

func (v *Violation) Error() string {
	if v.Tensor == "" {
		return fmt.Sprintf("rule %q: %s", v.Rule, v.Detail)
	}
	return fmt.Sprintf("rule %q: %s: %s", v.Rule, v.Tensor, v.Detail)
}

func violation(rule, tensor, format string, a ...any) *Violation {
	return &Violation{Rule: rule, Tensor: tensor, Detail: fmt.Sprintf(format, a...)}
}

// FilesDigest is one sha256, in lower-case hex, over the names, sizes and
// sha256 of the files that have one.
func FilesDigest(files []FileReport) string {
	sorted := slices.Clone(files)
	slices.SortFunc(sorted, func(a, b FileReport) int { return strings.Compare(a.Name, b.Name) })
	h := sha256.New()
	for _, f := range sorted {
		if f.SHA256 != "" {
			fmt.Fprintf(h, "%s %d %q\n", f.SHA256, f.Size, f.Name)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// total sums up the tensors' reports.
func total(tensors []TensorReport) Totals {
	t := Totals{Tensors: len(tensors)}
	for _, r := range tensors {
		switch r.Action {
		case Quantised:
			t.Quantised++
		case Dequantised:
			t.Dequantised++
		case Expanded:
			t.Expanded++
		case Cast:
			t.Cast++
		case Copied:
			t.Copied++
		case Dropped:
			t.Dropped++
		}
		t.Outputs += len(r.Outputs)
		t.Tiles += r.Tiles
		t.BytesIn += r.BytesIn
		t.BytesOut += r.BytesOut
		if r.MaxAbsError > 0 && (t.WorstTensor == "" || r.SQNR < t.WorstSQNR) {
			t.WorstSQNR, t.WorstTensor = r.SQNR, r.Name
		}
	}
	return t
}

// WriteText prints the report for people: the totals, the ignore list, and one
// line per tensor.
func (r *Report) WriteText(w io.Writer) error {
	b := bufio.NewWriter(w)
	t := r.Totals
	fmt.Fprintf(b, "%s to %s: %d tensors, %d quantised, %d dequantised, %d expanded, %d cast, %d copied, %d dropped; %d bytes in, %d out\n",
		r.Architecture, r.Format, t.Tensors, t.Quantised, t.Dequantised, t.Expanded, t.Cast, t.Copied, t.Dropped, t.BytesIn, t.BytesOut)
	if t.CompatibleSQNR > 0 {
		fmt.Fprintf(b, "int8 with %s rounding; compatible rounding gives %.2f dB, exact %.2f dB\n", r.Rounding, t.CompatibleSQNR, t.ExactSQNR)
	}
	if t.Tiles > 0 {
		fmt.Fprintf(b, "%d tiles of FP4 are the same numbers in FP8\n", t.Tiles)
	}
	fmt.Fprintf(b, "source %s\nresult %s\n", r.SourceDigest, r.Digest)
	for _, i := range r.Ignored {
		fmt.Fprintf(b, "stays float: %s (%s)\n", i.Match, i.Reason)
	}
	for _, t := range r.Tensors {
		sqnr := "exact"
		if t.MaxAbsError > 0 {
			sqnr = fmt.Sprintf("%.2f dB", t.SQNR)
		}
		fmt.Fprintf(b, "%-11s %s %v %s>%s max error %.3g of %.3g, %s: %s\n",
			t.Action, t.Name, t.Shape, t.From, t.To, t.MaxAbsError, t.Bound, sqnr, t.Reason)
	}
	return b.Flush() // with the first error of any write
}
