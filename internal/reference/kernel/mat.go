package kernel

import "fmt"

// Mat is a view of a row-major float32 matrix. Element (i, j) is
// Data[i*Stride+j], or Data[j*Stride+i] when T is set. Rows and Cols are those
// of the matrix as read, after transposition.
type Mat struct {
	Data               []float32
	Rows, Cols, Stride int
	T                  bool
}

// Dense views data as a rows×cols matrix without gaps between rows.
func Dense(data []float32, rows, cols int) Mat {
	return Mat{Data: data, Rows: rows, Cols: cols, Stride: cols}
}

// Transpose is the same memory read the other way; nothing moves.
func (m Mat) Transpose() Mat {
	return Mat{Data: m.Data, Rows: m.Cols, Cols: m.Rows, Stride: m.Stride, T: !m.T}
}

// RowRange views rows [from, to).
func (m Mat) RowRange(from, to int) Mat {
	step, _ := m.steps()
	return Mat{Data: m.Data[min(from*step, len(m.Data)):], Rows: to - from, Cols: m.Cols, Stride: m.Stride, T: m.T}
}

// ColRange views columns [from, to).
func (m Mat) ColRange(from, to int) Mat {
	_, step := m.steps()
	return Mat{Data: m.Data[min(from*step, len(m.Data)):], Rows: m.Rows, Cols: to - from, Stride: m.Stride, T: m.T}
}

// At is element (i, j).
func (m Mat) At(i, j int) float32 {
	row, col := m.steps()
	return m.Data[i*row+j*col]
}

// steps gives the distance in Data from one row, and one column, to the next.
func (m Mat) steps() (row, col int) {
	if m.T {
		return 1, m.Stride
	}
	return m.Stride, 1
}

// check panics when the view reaches outside its data: the assembly would
// read there without asking. A wrong shape is a bug of the caller, never input.
func (m Mat) check(name string) {
	rows, cols := m.Rows, m.Cols
	if m.T {
		rows, cols = cols, rows
	}
	if rows < 0 || cols < 0 || m.Stride < 0 {
		panic(fmt.Sprintf("kernel: %s is %d×%d with stride %d", name, m.Rows, m.Cols, m.Stride))
	}
	if rows == 0 || cols == 0 {
		return
	}
	if m.Stride < cols && rows > 1 || (rows-1)*m.Stride+cols > len(m.Data) {
		panic(fmt.Sprintf("kernel: %s is %d×%d (stride %d, transposed %t) in %d elements",
			name, m.Rows, m.Cols, m.Stride, m.T, len(m.Data)))
	}
}

// checkShapes panics unless a times a rows×cols matrix gives c's shape.
func checkShapes(a Mat, rows, cols int, c Mat) {
	if a.Cols != rows || a.Rows != c.Rows || cols != c.Cols {
		panic(fmt.Sprintf("kernel: %d×%d times %d×%d into %d×%d",
			a.Rows, a.Cols, rows, cols, c.Rows, c.Cols))
	}
}
