// Requantise with constants: q = clamp((acc * M + B) >>> S, low, high), exact. Combinational.
//
//   POST        M
//   0 shift     one digit
//   1 csd       the sum of CSD_DIGITS digits, the first in the lowest bits
//   2 multiply  MULTIPLIER_BITS bits in two's complement
//
// A digit is {nonzero, negative, exponent[4:0]}: 0, or 2^exponent with a sign. Exponents lie below EXPONENTS, of which
// 32 serves every program; a unit for fewer has smaller shifters.
module post_arithmetic #(
    parameter POST = 0,
    parameter ACC_BITS = 16,
    parameter OFFSET_BITS = 24,
    parameter SHIFT_BITS = 6,
    parameter MULTIPLIER_BITS = 8,
    parameter CSD_DIGITS = 2,
    parameter RESULT_BITS = 9,
    parameter EXPONENTS = 32
) (
    input signed [ACC_BITS-1:0] acc,
    input [(POST == 2 ? MULTIPLIER_BITS : POST == 1 ? CSD_DIGITS*7 : 7)-1:0] multiplier,
    input signed [OFFSET_BITS-1:0] offset,
    input [SHIFT_BITS-1:0] shift,
    input signed [RESULT_BITS-1:0] low,
    input signed [RESULT_BITS-1:0] high,
    output signed [RESULT_BITS-1:0] q
);
    localparam DIGITS = POST == 1 ? CSD_DIGITS : 1;
    // |acc| * 2^(EXPONENTS-1) for each digit, or the product of two numbers in two's complement.
    localparam PRODUCT_BITS = ACC_BITS + (POST == 2 ? MULTIPLIER_BITS : EXPONENTS - 1 + $clog2(DIGITS + 1));
    localparam SUM_BITS = (PRODUCT_BITS > OFFSET_BITS ? PRODUCT_BITS : OFFSET_BITS) + 1;
    localparam WIDTH = SUM_BITS > RESULT_BITS ? SUM_BITS : RESULT_BITS + 1;

    wire signed [WIDTH-1:0] value = {{(WIDTH-ACC_BITS){acc[ACC_BITS-1]}}, acc};
    wire signed [WIDTH-1:0] product;

    generate
        if (POST == 2) begin : multiplied
            wire signed [WIDTH-1:0] factor =
                {{(WIDTH-MULTIPLIER_BITS){multiplier[MULTIPLIER_BITS-1]}}, multiplier};
            assign product = value * factor;
        end else begin : shifted
            localparam EXPONENT_BITS = EXPONENTS > 1 ? $clog2(EXPONENTS) : 1;
            reg signed [WIDTH-1:0] total;
            reg signed [WIDTH-1:0] power;
            integer digit;
            always @* begin
                total = 0;
                power = 0;
                for (digit = 0; digit < DIGITS; digit = digit + 1) begin
                    power = EXPONENTS > 1 ? value <<< multiplier[digit*7 +: EXPONENT_BITS] : value;
                    if (multiplier[digit*7+6])
                        total = multiplier[digit*7+5] ? total - power : total + power;
                end
            end
            assign product = total;
            wire unused = &{1'b0, multiplier};
        end
    endgenerate

    wire signed [WIDTH-1:0] sum = product + {{(WIDTH-OFFSET_BITS){offset[OFFSET_BITS-1]}}, offset};
    wire signed [WIDTH-1:0] result = sum >>> shift;
    wire signed [WIDTH-1:0] lowest = {{(WIDTH-RESULT_BITS){low[RESULT_BITS-1]}}, low};
    wire signed [WIDTH-1:0] highest = {{(WIDTH-RESULT_BITS){high[RESULT_BITS-1]}}, high};
    assign q = result < lowest ? low : result > highest ? high : result[RESULT_BITS-1:0];
endmodule
