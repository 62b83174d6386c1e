package csvutil

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

const sales = `city,product,price
Oslo,tea,3.5
Bern,coffee,4
Oslo,"cake, small",2.5
`

// load returns the table of sales or stops the test.
func load(t *testing.T) *Table {
	t.Helper()
	table, err := readTable(strings.NewReader(sales))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestReadTable(t *testing.T) {
	tests := []struct {
		name    string
		text    string
		rows    int
		wantErr bool
	}{
		{name: "sales", text: sales, rows: 3},
		{name: "header only", text: "a,b\n", rows: 0},
		{name: "empty", text: "", wantErr: true},
		{name: "missing value", text: "a,b\n1\n", wantErr: true},
		{name: "open quote", text: "a\n\"x\n", wantErr: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readTable(strings.NewReader(tt.text))
			if (err != nil) != tt.wantErr {
				t.Fatalf("readTable() error = %v, wantErr %t", err, tt.wantErr)
			}
			if err == nil && len(got.Rows) != tt.rows {
				t.Errorf("readTable() has %d rows, want %d", len(got.Rows), tt.rows)
			}
		})
	}
}

func TestWriteTable(t *testing.T) {
	var b strings.Builder
	if err := writeTable(&b, load(t)); err != nil {
		t.Fatalf("writeTable() error = %v", err)
	}
	if b.String() != sales {
		t.Errorf("writeTable() = %q, want %q", b.String(), sales)
	}
	bad := &Table{Header: []string{"a", "b"}, Rows: [][]string{{"1"}}}
	if err := writeTable(&b, bad); err == nil {
		t.Error("writeTable() error = nil, want an error")
	}
}

func TestColumn(t *testing.T) {
	table := load(t)
	if err := table.SortBy("product"); err != nil {
		t.Fatalf("SortBy() error = %v", err)
	}
	got, err := table.Column("product")
	if err != nil {
		t.Fatalf("Column() error = %v", err)
	}
	if want := []string{"cake, small", "coffee", "tea"}; !reflect.DeepEqual(got, want) {
		t.Errorf("Column() = %v, want %v", got, want)
	}
	if _, err := table.Column("color"); !errors.Is(err, ErrNoColumn) {
		t.Errorf("Column() error = %v, want %v", err, ErrNoColumn)
	}
	if _, err := table.Floats("city"); err == nil {
		t.Error("Floats(city) error = nil, want an error")
	}
}

func TestSumBy(t *testing.T) {
	got, err := load(t).SumBy("city", "price")
	if err != nil {
		t.Fatalf("SumBy() error = %v", err)
	}
	want := []Group{{Key: "Bern", Count: 1, Sum: 4}, {Key: "Oslo", Count: 2, Sum: 6}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("SumBy() = %v, want %v", got, want)
	}
	if mean := got[1].Mean(); mean != 3 {
		t.Errorf("Mean() = %v, want 3", mean)
	}
}

func TestFilterSelect(t *testing.T) {
	oslo := load(t).Filter(func(row map[string]string) bool {
		return row["city"] == "Oslo"
	})
	got, err := oslo.Select("price", "product")
	if err != nil {
		t.Fatalf("Select() error = %v", err)
	}
	want := [][]string{{"3.5", "tea"}, {"2.5", "cake, small"}}
	if !reflect.DeepEqual(got.Rows, want) {
		t.Errorf("Select() = %v, want %v", got.Rows, want)
	}
}
