package ascend

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"tarbert/internal/device"
)

// errLayout marks a header that no known layout has.
var errLayout = errors.New("unknown layout")

// generation of a chip, as far as the layout tells it.
type generation string

const (
	genA2  generation = "A2"  // 910B*: Ascend 910, second
	genA3  generation = "A3"  // two dies per NPU
	gen310 generation = "310" // 310P, 310B
	gen950 generation = "950"
)

// chip is one die.
type chip struct {
	npu, chip   int
	index       int
	name        string
	bus         string
	generation  generation
	word        string // the tool's word on health
	power       *float64
	temperature *float64
	busy        *float64 // 0–1
	used, total int64    // bytes; HBM where there is any, else DDR
}

// id is (NPU, chip): a 310P's two dies share a bus id.
func (c chip) id() string { return fmt.Sprintf("npu%d-chip%d", c.npu, c.chip) }

// health follows npu-smi's words: Warning is minor and the chip works on;
// Alarm is major. A word that is not known is kept and means unknown.
func (c chip) health() device.Health {
	switch c.word {
	case "OK", "Warning":
		return device.Healthy
	case "Alarm", "Critical":
		return device.Unhealthy
	}
	return device.Unknown
}

// features by generation: DAV_2201 (A2, A3) has no fp8, 310 no bf16.
func (c chip) features() []string {
	switch c.generation {
	case genA2, genA3:
		return []string{"bf16", "float32", "fp16", "int8"}
	case gen310:
		return []string{"fp16", "int8"}
	case gen950:
		return []string{"bf16", "float32", "fp16", "fp8", "int8"}
	}
	return nil
}

// layouts are the known pairs of header rows, blanks made single.
var layouts = map[string]generation{
	"NPU Name | Health | Power(W) Temp(C) Hugepages-Usage(page) // Chip | Bus-Id | AICore(%) Memory-Usage(MB) HBM-Usage(MB)":        genA2,
	"NPU Name | Health | Power(W) Temp(C) Hugepages-Usage(page) // Chip Phy-ID | Bus-Id | AICore(%) Memory-Usage(MB) HBM-Usage(MB)": genA3,
	"NPU Name | Health | Power(W) Temp(C) Hugepages-Usage(page) // Chip Device | Bus-Id | AICore(%) Memory-Usage(MB)":               gen310,
}

// cells splits a table row at its bars; nil for separator lines and text.
func cells(line string) []string {
	line = strings.TrimSpace(line)
	if len(line) < 2 || line[0] != '|' || line[len(line)-1] != '|' {
		return nil
	}
	parts := strings.Split(line[1:len(line)-1], "|")
	for i, p := range parts {
		parts[i] = strings.Join(strings.Fields(p), " ")
	}
	return parts
}

// parseInfo reads the chip table of `npu-smi info`. The process table under it
// is not read.
func parseInfo(out []byte) ([]chip, error) {
	var rows [][]string
	for line := range strings.Lines(string(out)) {
		if c := cells(line); c != nil {
			rows = append(rows, c)
		}
	}
	// The banner with the version is one cell wide; the headers are the next two.
	for len(rows) > 0 && len(rows[0]) == 1 {
		rows = rows[1:]
	}
	if len(rows) < 2 {
		return nil, fmt.Errorf("%w: no table: %.4000q", errLayout, out)
	}
	header := strings.Join(rows[0], " | ") + " // " + strings.Join(rows[1], " | ")
	gen, ok := layouts[header]
	if !ok {
		return nil, fmt.Errorf("%w: header %q in %.4000q", errLayout, header, out)
	}
	var chips []chip
	seen := map[string]bool{}
	for rows = rows[2:]; len(rows) >= 2 && !processHeader(rows[0]); rows = rows[2:] {
		c, err := parseChip(gen, rows[0], rows[1])
		if err != nil {
			return nil, fmt.Errorf("chip %d of the table: %w: %.4000q", len(chips)+1, err, out)
		}
		if seen[c.id()] {
			return nil, fmt.Errorf("chip %s is listed twice: %.4000q", c.id(), out)
		}
		seen[c.id()] = true
		chips = append(chips, c)
	}
	if len(rows) == 1 && !processHeader(rows[0]) {
		return nil, fmt.Errorf("half a chip at the end of the table: %.4000q", out)
	}
	return chips, nil
}

// processHeader tells where the chip table ends.
func processHeader(row []string) bool {
	return len(row) > 1 && strings.HasPrefix(row[1], "Process id") || len(row) == 1
}

var usage = regexp.MustCompile(`(\d+)\s*/\s*(\d+)`)

// parseChip reads a chip's two rows.
func parseChip(gen generation, first, second []string) (chip, error) {
	c := chip{generation: gen}
	if len(first) != 3 || len(second) != 3 {
		return c, fmt.Errorf("rows of %d and %d cells, want 3", len(first), len(second))
	}
	npu, name, ok := strings.Cut(first[0], " ")
	if !ok {
		return c, fmt.Errorf("%q is no NPU and name", first[0])
	}
	var err error
	if c.npu, err = smallNumber(npu); err != nil {
		return c, err
	}
	c.name, c.word, c.bus = name, first[1], second[1]
	ids := strings.Fields(second[0])
	if want := map[generation]int{genA2: 1, genA3: 2, gen310: 2}[gen]; len(ids) != want {
		return c, fmt.Errorf("%q: want %d numbers", second[0], want)
	}
	if c.chip, err = smallNumber(ids[0]); err != nil {
		return c, err
	}
	c.index = c.npu // of an A2, unless the chip map tells better
	if len(ids) == 2 {
		if c.index, err = smallNumber(ids[1]); err != nil {
			return c, err
		}
	}
	return c, c.readFigures(gen, first[2], second[2])
}

// readFigures takes power, temperature, load and memory. A figure that is not
// given ("-", "NA") is absent.
func (c *chip) readFigures(gen generation, first, second string) error {
	a, b := strings.Fields(first), strings.Fields(second)
	if len(a) < 2 || len(b) < 1 {
		return fmt.Errorf("%q and %q: too few figures", first, second)
	}
	c.power, c.temperature = figure(a[0]), figure(a[1])
	if busy := figure(b[0]); busy != nil {
		share := *busy / 100
		c.busy = &share
	}
	// The first figure may run into the pair's: take the pairs after it.
	pairs := usage.FindAllStringSubmatch(strings.TrimPrefix(second, b[0]), -1)
	want := 2 // Memory (DDR, 0/0 on 910B) and HBM
	if gen == gen310 {
		want = 1
	}
	if len(pairs) != want {
		return fmt.Errorf("%q: %d memory figures, want %d", second, len(pairs), want)
	}
	pair := pairs[want-1]
	used, errU := strconv.ParseInt(pair[1], 10, 64)
	total, errT := strconv.ParseInt(pair[2], 10, 64)
	if errU != nil || errT != nil || used > 1<<30 || total > 1<<30 {
		return fmt.Errorf("%q: memory out of range", second)
	}
	c.used, c.total = used<<20, total<<20
	return nil
}

func figure(s string) *float64 {
	x, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return &x
}

func smallNumber(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 1<<16 {
		return 0, fmt.Errorf("%q is no chip number", s)
	}
	return n, nil
}

var manySpaces = regexp.MustCompile(`\t|\s{2,}`)

// parseMap reads `npu-smi info -m`: the legacy columns (NPU ID, Chip ID, Chip
// Logic ID, Chip Name) and the 950's (with Slot ID and Chip Phy-ID). Rows of
// management controllers (Mcu) are skipped. It tells nothing of health.
func parseMap(out []byte) ([]chip, error) {
	var column map[string]int
	var chips []chip
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		fields := manySpaces.Split(line, -1)
		if column == nil {
			column = map[string]int{}
			for i, f := range fields {
				column[f] = i
			}
			if _, _, err := mapColumns(column); err != nil {
				return nil, fmt.Errorf("%w: %.2000q", err, out)
			}
			continue
		}
		if len(fields) != len(column) {
			return nil, fmt.Errorf("a row has %d columns of %d: %.2000q", len(fields), len(column), out)
		}
		name := fields[column["Chip Name"]]
		if name == "Mcu" {
			continue
		}
		c, err := mappedChip(column, fields, name)
		if err != nil {
			return nil, fmt.Errorf("%w: %.2000q", err, out)
		}
		chips = append(chips, c)
	}
	return chips, nil
}

// mapColumns names the index column and the generation it implies.
func mapColumns(column map[string]int) (string, generation, error) {
	has := func(names ...string) bool {
		for _, n := range names {
			if _, ok := column[n]; !ok {
				return false
			}
		}
		return len(column) == len(names)
	}
	switch {
	case has("NPU ID", "Chip ID", "Chip Logic ID", "Chip Name"):
		return "Chip Logic ID", "", nil
	case has("NPU ID", "Slot ID", "Chip ID", "Chip Phy-ID", "Chip Name"):
		return "Chip Phy-ID", gen950, nil
	}
	return "", "", errLayout
}

func mappedChip(column map[string]int, fields []string, name string) (chip, error) {
	index, gen, err := mapColumns(column)
	if err != nil {
		return chip{}, err
	}
	c := chip{name: name, generation: gen, word: "not told by npu-smi info -m"}
	if c.npu, err = smallNumber(fields[column["NPU ID"]]); err != nil {
		return c, err
	}
	if c.chip, err = smallNumber(fields[column["Chip ID"]]); err != nil {
		return c, err
	}
	c.index, err = smallNumber(fields[column[index]])
	return c, err
}
