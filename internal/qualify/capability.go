package qualify

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"slices"
	"strings"

	"tarbert/internal/device"
	"tarbert/internal/gate"
)

//go:embed dtypes.csv
var dtypeTable string

// capable is a row of dtypes.csv.
type capable struct {
	vendor device.Vendor
	prefix string
	dtypes []string
	source string
}

func capabilities() ([]capable, error) {
	r := csv.NewReader(strings.NewReader(dtypeTable))
	r.Comment = '#'
	r.FieldsPerRecord = 4
	rows, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("dtypes.csv: %w", err)
	}
	var out []capable
	for _, row := range rows {
		out = append(out, capable{device.Vendor(row[0]), row[1], strings.Fields(row[2]), row[3]})
	}
	return out, nil
}

// capability judges whether a device computes in a dtype. A chip that the table
// lacks is inconclusive.
func capability(table []capable, d device.Device, dtype string) gate.Check {
	c := gate.Check{Name: "capability", Verdict: gate.Inconclusive}
	model := d.Name()
	best := -1
	for i, row := range table {
		if row.vendor == d.Vendor && strings.HasPrefix(model, row.prefix) && (best < 0 || len(row.prefix) > len(table[best].prefix)) {
			best = i
		}
	}
	if best < 0 {
		c.Detail = fmt.Sprintf("no entry for %s %q: whether it computes in %s is not known", d.Vendor, d.Model, dtype)
		return c
	}
	row := table[best]
	if slices.Contains(row.dtypes, dtype) {
		c.Verdict, c.Detail = gate.Pass, fmt.Sprintf("%s %s computes in %s", d.Vendor, d.Model, dtype)
		return c
	}
	c.Verdict = gate.Fail
	c.Detail = fmt.Sprintf("the recipe wants %s; %s %s has %s (%s)", dtype, d.Vendor, d.Model, strings.Join(row.dtypes, ", "), row.source)
	return c
}
