// The number of thresholds t with acc >= t, or with acc <= t where the channel falls. Combinational.
// The first threshold is in the lowest bits; all are in two's complement. COUNT_BITS holds the number COMPARATORS.
module post_threshold #(
    parameter ACC_BITS = 16,
    parameter COMPARATORS = 15,
    parameter COUNT_BITS = 4
) (
    input signed [ACC_BITS-1:0] acc,
    input [COMPARATORS*ACC_BITS-1:0] thresholds,
    input falling,
    output [COUNT_BITS-1:0] count
);
    // acc >= t where acc - t is not negative, acc <= t where acc - t - 1 is: one subtraction serves both.
    wire [ACC_BITS:0] wide = {acc[ACC_BITS-1], acc};
    reg [ACC_BITS:0] threshold;
    reg [ACC_BITS:0] difference;
    reg [COUNT_BITS-1:0] total;
    integer level;
    assign count = total;
    always @* begin
        total = 0;
        threshold = 0;
        difference = 0;
        for (level = 0; level < COMPARATORS; level = level + 1) begin
            threshold = {thresholds[level*ACC_BITS+ACC_BITS-1], thresholds[level*ACC_BITS +: ACC_BITS]};
            difference = wide - threshold - {{ACC_BITS{1'b0}}, falling};
            if (difference[ACC_BITS] == falling)
                total = total + {{(COUNT_BITS-1){1'b0}}, 1'b1};
        end
    end
endmodule
