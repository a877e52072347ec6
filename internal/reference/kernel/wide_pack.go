package kernel

import "fmt"

// NewPacked returns a right-hand side of k rows and n columns, zero, to be
// filled with W's rows, which are [n, k] as Hugging Face stores them: Pack
// without the whole of W in memory.
func NewPacked(n, k int) *Packed {
	if n < 0 || k < 0 {
		panic(fmt.Sprintf("kernel: a matrix of %d×%d", n, k))
	}
	return &Packed{rows: k, cols: n, data: make([]float32, packedSize(k, n))}
}

// SetRows stores rows of W from row from on, a multiple of 32; unless they are
// the last, their number is one too. Calls for different rows may run at the
// same time.
func (p *Packed) SetRows(from int, w []float32) {
	if p.rows == 0 {
		return
	}
	n := len(w) / p.rows
	if len(w)%p.rows != 0 || from < 0 || from%panelCols != 0 || from+n > p.cols || n%panelCols != 0 && from+n != p.cols {
		panic(fmt.Sprintf("kernel: %d numbers for rows of %d from row %d of %d", len(w), p.rows, from, p.cols))
	}
	transposePanels(best, p.data[from*p.rows:], Dense(w, n, p.rows).Transpose(), 0, panels(n))
}

// Row writes row j of W, which is column j of the product.
func (p *Packed) Row(dst []float32, j int) {
	if j < 0 || j >= p.cols || len(dst) != p.rows {
		panic(fmt.Sprintf("kernel: row %d of %d into %d numbers", j, p.cols, len(dst)))
	}
	at := j/panelCols*p.rows*panelCols + j%panelCols
	for k := range dst {
		dst[k] = p.data[at+k*panelCols]
	}
}

// PanelCols is the number of columns of a panel.
const PanelCols = panelCols

// View is a right-hand side of so many columns at the beginning of data that
// others filled in the layout of Packed: column j of row i is number
// (j/32·rows + i)·32 + j%32. What the last panel holds beyond cols must be
// finite.
func View(data []float32, rows, cols int) Packed {
	size := packedSize(rows, cols)
	if rows|cols < 0 || size > len(data) {
		panic("kernel: a view reaches beyond its numbers")
	}
	return Packed{rows: rows, cols: cols, data: data[:size]}
}
