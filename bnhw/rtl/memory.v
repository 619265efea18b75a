// A memory with one read and one write port, whole words only; a read answers in the next cycle and the answer stays
// until the next read. Small enough to be replaced by a macro. Addresses behind the last word are never used.
module memory #(
    parameter WIDTH = 8,
    parameter DEPTH = 16
) (
    input clk,
    input read,
    input [23:0] read_address,
    output reg [WIDTH-1:0] read_data,
    input write,
    input [23:0] write_address,
    input [WIDTH-1:0] write_data
);
    localparam ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;

    reg [WIDTH-1:0] words [0:DEPTH-1];

    always @(posedge clk) begin
        if (read) read_data <= words[read_address[ADDRESS_BITS-1:0]];
        if (write) words[write_address[ADDRESS_BITS-1:0]] <= write_data;
    end

    wire unused = &{1'b0, read_address, write_address};
endmodule
