module tepui/demo

go 1.19
